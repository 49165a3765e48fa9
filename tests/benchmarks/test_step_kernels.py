"""The account of a step's kernels, on times that are known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks.step_kernels import (
    AFTER,
    BEFORE,
    COLOR,
    LAYER,
    NETS,
    NORM,
    PRODUCT,
    NoLayers,
    Trace,
    account,
    as_json,
    draw,
    from_json,
    main,
    roles_after,
    roles_in_layer,
    table,
)

LINEAR = "mlp_1_dual_triton"
LAYERS = 24
READ = 4000.0  # GB/s
LIBRARY = "nvjet_sm90_hsh_64x8_64x16_4x1_v_bz_TNT"
SUMS = "void cublasLt::splitKreduce_kernel<32, 16, int, float>"
# name, µs from the end of the kernel before to the start, µs to the end; overlapping kernels begin before that end
OF_LAUNCHES = (
    ("conv_rms_norm_kernel", 0.5, 2.5), (LIBRARY, 1, 9), ("qk_conv_rotary_kernel", 0.5, 4),
    ("linear_decode_tensor_kernel", -2, 4), ("gated_layer_norm_kernel", 0.5, 2), (LIBRARY, 0.5, 6),
    ("add_rms_norm_kernel", 0.5, 1.5), (LIBRARY, 0.5, 14), ("swiglu_kernel", 0.5, 1), (LIBRARY, 0.5, 8), (SUMS, 1, 2),
)  # fmt: skip
OF_OVERLAPPED = (
    ("conv_rms_norm_kernel", -5, 8), ("product_kernel", -6, 10), ("heads_kernel", -7, 11),
    ("gated_layer_norm_kernel", -4, 6), ("product_kernel", -6, 8.5), ("add_rms_norm_kernel", -8, 9),
    ("product_kernel", -8, 19), ("product_kernel", -7, 11),
)  # fmt: skip
HEADS = {
    "launches": (("vectorized_elementwise_kernel<4>", 1, 1), ("add_rms_norm_kernel", 1, 2), (LIBRARY, 1, 50),
                 ("reduce_kernel<512>", 1, 13)),
    "overlapped": (("add_rms_norm_kernel", -5, 8), ("product_kernel", -4, 54), ("sampling_kernel", -4, 7)),
}  # fmt: skip
OTHER_LAYERS = (0, 1, 22, 23)  # of a step, whose kernels are longer here: they must not count


def made(path: str = "launches", steps: int = 3) -> Trace:
    """Steps whose inner layers all take the same time, 3 µs apart."""
    layer = OF_LAUNCHES if path == "launches" else OF_OVERLAPPED
    now, found = 1000.0, []
    for _ in range(steps):
        step = []
        slow = [5.0 if index in OTHER_LAYERS else 0.0 for index in range(LAYERS) for _ in layer]
        kernels = [("embedding_kernel", 3, 2), *(layer * LAYERS), *HEADS[path]]
        for (name, gap, took), longer in zip(kernels, [0.0, *slow, *[0.0] * len(HEADS[path])], strict=True):
            start = now + gap
            now = start + took + longer
            step.append((start, now, name))
        found.append(step)
    return Trace(LINEAR, 1, path, 1.25, found)


@pytest.mark.parametrize("path", HEADS)
def test_shares_add_up_to_the_layer(path: str) -> None:
    found = account(made(path), READ)
    layer = OF_LAUNCHES if path == "launches" else OF_OVERLAPPED
    kernels = found.of(LAYER)
    assert [one.name for one in kernels] == [name for name, _, _ in layer]
    assert [one.share_us for one in kernels] == pytest.approx([gap + took for _, gap, took in layer])
    assert [one.duration_us for one in kernels] == pytest.approx([took for _, _, took in layer])
    assert found.layer_us == pytest.approx(sum(gap + took for _, gap, took in layer))
    assert kernels[0].start_us == pytest.approx(layer[0][1])
    assert kernels[1].start_us == pytest.approx(layer[0][1] + layer[0][2] + layer[1][1])


def test_a_kernel_that_ends_before_an_earlier_one_has_no_share() -> None:
    trace = made("overlapped")
    steps = [
        [(start, end - 3 if name == "heads_kernel" else end, name) for start, end, name in step] for step in trace.steps
    ]
    steps = [[(s, e + 6 if name == "product_kernel" else e, name) for s, e, name in step] for step in steps]
    found = account(Trace(LINEAR, 1, "overlapped", 1.0, steps), READ)
    heads = found.of(LAYER)[2]
    assert heads.name == "heads_kernel"
    assert heads.share_us == 0
    assert heads.duration_us == pytest.approx(8)
    assert sum(one.share_us for one in found.of(LAYER)) == pytest.approx(found.layer_us)


def test_a_step_is_all_of_its_parts() -> None:
    trace = made()
    found = account(trace, READ)
    slow = 5.0 * len(OTHER_LAYERS) * len(OF_LAUNCHES)
    outside = sum(one.share_us for where in (BEFORE, AFTER) for one in found.of(where))
    assert found.profiled_ms * 1e3 == pytest.approx(LAYERS * found.layer_us + slow + outside)
    assert [(one.what, one.share_us) for one in found.of(BEFORE)] == [("embedding", pytest.approx(5))]
    assert [one.what for one in found.of(AFTER)] == ["position", "residual, norm", "head", "sampling"]


def test_what_the_kernels_are() -> None:
    products = ["projection", "output projection", "gate and up projections", "down projection"]
    of_launches = roles_in_layer([name for name, _, _ in OF_LAUNCHES])
    assert [what for what, does, _ in of_launches if does == PRODUCT] == [*products, "sums of the down projection"]
    of_overlapped = roles_in_layer([name for name, _, _ in OF_OVERLAPPED])
    assert [what for what, does, _ in of_overlapped if does == PRODUCT] == products
    assert [does for _, does, _ in of_overlapped].count(NORM) == 3
    names = ["add_rms_norm_kernel", "Memset (Device)", LIBRARY, SUMS, "reduce_kernel"]
    after = [what for what, _, _ in roles_after(names)]
    assert after == ["residual, norm", "copy or fill", "head", "sums of the head", "sampling"]


def test_a_fill_is_no_product() -> None:
    names = [name for name, _, _ in OF_LAUNCHES]
    names.insert(names.index("swiglu_kernel") + 1, "Memset (Device)")
    names.insert(-1, "Memset (Device)")
    roles = roles_in_layer(names)
    assert [what for what, _, _ in roles if what in ("copy or fill", "down projection")] == [
        "copy or fill",
        "down projection",
        "copy or fill",
    ]
    assert roles[-1][0] == "sums of the down projection"


@pytest.mark.parametrize("path", HEADS)
def test_bytes_are_those_of_the_weights_and_of_the_state(path: str) -> None:
    kernels = {one.what: one for one in account(made(path), READ).kernels}
    width, feed = 2048, 5504
    weights = {
        "projection": width * (3 * width + 32), "output projection": width * width,
        "gate and up projections": 2 * width * feed, "down projection": width * feed, "head": width * 50277,
    }  # fmt: skip
    for what, elements in weights.items():
        assert kernels[what].bytes == pytest.approx(2 * elements, rel=2e-3)
        assert kernels[what].read_us == pytest.approx(kernels[what].bytes / 4e6)
    (inner,) = (one for one in kernels.values() if "inner net" in one.what)
    state = 2 * 32 * 64 * 64  # bytes of 32 heads
    assert state < inner.bytes < 2 * state


def test_the_table_has_a_line_for_each_kernel() -> None:
    trace = made()
    lines = table(trace, found := account(trace, READ)).splitlines()
    assert lines[0].startswith("TTT-Linear, batch 1, launches: 1.2500 ms a step")
    assert f"a layer: {found.layer_us:.2f} µs" in lines[1]
    assert len(lines) == 3 + 3 + len(found.kernels)
    (row,) = (line for line in lines if line.startswith("  gate and up projections"))
    assert row.split()[4:] == ["31.00", "14.00", "14.50", "45.09", "11.27", "3.23", LIBRARY]


def without(trace: Trace, name: str, step: int, which: int) -> Trace:
    """The same without that kernel, the ``which``-th of its name in a step."""
    steps = [list(some) for some in trace.steps]
    del steps[step][[index for index, one in enumerate(steps[step]) if one[2] == name][which]]
    return Trace(trace.inner_net, trace.batch, trace.path, trace.step_ms, steps)


def everywhere_without(name: str, which: int) -> Trace:
    trace = made()
    for step in range(len(trace.steps)):
        trace = without(trace, name, step, which)
    return trace


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (Trace(LINEAR, 1, "launches", 1.0, []), "batch 1, launches: 0 steps were recorded; it takes two"),
        (made(steps=1), "1 steps were recorded"),
        (Trace(LINEAR, 1, "launches", 1.0, [[], []]), "conv_rms_norm_kernel occurs 0 times in a step"),
        (without(made(), LIBRARY, 1, 7), r"different kernels \(269, 268, 269\); was a kernel lost"),
        (everywhere_without("conv_rms_norm_kernel", 3), "occurs 23 times in a step, not once in each of 24 layers"),
        (everywhere_without("swiglu_kernel", 3), "the layers have different numbers of kernels"),
    ],
)
def test_what_is_not_whole_steps_is_refused(trace: Trace, said: str) -> None:
    with pytest.raises(NoLayers, match=said):
        account(trace, READ)


def test_a_layer_with_other_products_is_refused() -> None:
    with pytest.raises(NoLayers, match="a layer has 3 products, not 4: conv_rms_norm_kernel, product_kernel, "):
        roles_in_layer([name for name, _, _ in OF_OVERLAPPED[:-1]])
    with pytest.raises(NoLayers, match="a layer has 5 products, not 4"):
        roles_in_layer([*(name for name, _, _ in OF_OVERLAPPED), "product_kernel"])


def test_the_file_has_what_was_recorded() -> None:
    traces = [made("launches"), made("overlapped")]
    text = as_json("a GPU", READ, [(trace, account(trace, READ)) for trace in traces])
    gpu, bandwidth, again = from_json(text)
    assert (gpu, bandwidth) == ("a GPU", READ)
    for before, after in zip(traces, again, strict=True):
        assert str(after) == str(before)
        assert table(after, account(after, READ)) == table(before, account(before, READ))
    kernels = json.loads(text)["traces"][0]["kernels"]
    assert [one["name"] for one in kernels if one["where"] == LAYER] == [name for name, _, _ in OF_LAUNCHES]


def test_a_layer_of_each_path_is_drawn() -> None:
    accounts = [(trace, account(trace, READ)) for trace in (made("launches"), made("overlapped"))]
    figure = draw(accounts, "a title")
    above, below = figure.axes
    assert [text.get_text() for text in above.get_yticklabels()][-1] == "sums of the down projection"
    assert above.get_title(loc="left").startswith("launches: ")
    assert below.get_title(loc="left").startswith("overlapped: ")
    assert above.get_xlim() == below.get_xlim()
    assert below.get_xlim()[0] < -5  # the first kernel begins before the layer before has ended
    assert "µs" in below.get_xlabel()
    (legend,) = figure.legends
    assert set(COLOR) < {text.get_text() for text in legend.get_texts()}


def saved(tmp_path: Path) -> Path:
    file = tmp_path / "before.json"
    file.write_text(as_json("a GPU", READ, [(made("launches"), None), (made("overlapped"), None)]))
    return file


def test_a_saved_file_is_computed_and_drawn_again(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / "out"), "--from", str(saved(tmp_path))])
    assert done.exit_code == 0, done.output
    assert "a GPU, reads 4,000 GB/s" in done.output
    assert "TTT-Linear, batch 1, overlapped" in done.output
    with Image.open(tmp_path / "out/step_kernels.png") as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        assert width == 1350  # 9 inches at 150 dots
        assert 900 < height < 1200
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 100
    again = from_json((tmp_path / "out/step_kernels.json").read_text())
    assert [len(trace.steps) for trace in again[2]] == [3, 3]


def test_the_first_batch_that_is_named_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    both = [made("launches"), replace(made("launches"), batch=16)]
    file.write_text(as_json("a GPU", READ, [(one, None) for one in both]))
    done = CliRunner().invoke(main, [str(tmp_path / "out"), "--from", str(file), "--batches", "16,1"])
    assert done.exit_code == 0, done.output
    assert done.output.index("TTT-Linear, batch 16, launches") < done.output.index("TTT-Linear, batch 1, launches")


def test_what_was_recorded_is_kept_though_one_of_it_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    wrong = without(made("overlapped"), "heads_kernel", 1, 5)
    file.write_text(as_json("a GPU", READ, [(made("launches"), None), (wrong, None)]))
    done = CliRunner().invoke(main, [str(tmp_path / "out"), "--from", str(file)])
    assert done.exit_code == 1
    assert "TTT-Linear, batch 1, launches: 1.2500 ms" in done.output
    assert "batch 1, overlapped: the steps have different kernels" in done.output
    kept = from_json((tmp_path / "out/step_kernels.json").read_text())[2]
    assert [[len(step) for step in trace.steps] for trace in kept] == [[269] * 3, [196, 195, 196]]
    with Image.open(tmp_path / "out/step_kernels.png") as picture:
        assert picture.height < 800  # launches alone


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["--from", "before.json", "--batches", "8"],
            1,
            "has nothing of mlp_1_dual_triton,mlp_2_dual_triton at batch 8",
        ),
        (["--from", "wrong.json"], 1, "not a file that `benchmarks.step_kernels` writes"),
        (["--from", "nowhere.json"], 2, "does not exist"),
        (["--inner-nets", "mlp_1"], 2, f"mlp_1; it takes {', '.join(NETS)}"),
        (["--batches", "1,few"], 2, "1,few; it takes numbers from 1 to 128"),
        (["--batches", "0"], 2, "it takes numbers from 1 to 128"),
        (["--batches", "1,129"], 2, "1,129; it takes numbers from 1 to 128"),  # overlapping kernels take no more
    ],
)
def test_bad_input(tmp_path: Path, options: list[str], code: int, said: str) -> None:
    saved(tmp_path)
    (tmp_path / "wrong.json").write_text('{"traces": [{"inner_net": "mlp_1_dual_triton"}]}')
    options = [str(tmp_path / one) if one.endswith(".json") else one for one in options]
    done = CliRunner().invoke(main, [str(tmp_path / "out"), *options])
    assert done.exit_code == code
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
def test_without_a_gpu_it_says_what_is_needed(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "no CUDA GPU was found; record on one, or give --from FILE.json" in done.output
    assert not (tmp_path / "out").exists()
