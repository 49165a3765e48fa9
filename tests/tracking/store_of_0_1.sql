-- Two CPU runs as version 0.1 (commit 5b0d33d) wrote them to an SQLite store: the rows, without the tables and the
-- experiment "Default", which MLflow makes itself.
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time) VALUES ('838e5a8dce0448a584ea2e065478b000', 'ttt-profile mlp_1_dual decode b2 p1 g16', 'UNKNOWN', '', '', 'someone', 'FINISHED', 1795904408189, 1795904428539, '', 'active', './mlruns/0/838e5a8dce0448a584ea2e065478b000/artifacts', 0, NULL);
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time) VALUES ('7277350434e74f2f97dfc0e4d22ab4d2', 'ttt-125m mlp_1_dual prefill b1 p16', 'UNKNOWN', '', '', 'someone', 'FINISHED', 1795904543221, 1795904547340, '', 'active', './mlruns/0/7277350434e74f2f97dfc0e4d22ab4d2/artifacts', 0, NULL);
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.journal_id', '20261128-222008-6e47583a', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.user', 'someone', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.source.name', 'ttt-mlflow', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.source.type', 'LOCAL', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.runName', 'ttt-profile mlp_1_dual decode b2 p1 g16', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.host', 'a-host', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.torch', '2.13.0+cpu', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.triton', '3.7.1', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.config_id', 'c7d9cfb25e24', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.entry_point', 'main', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.warmup_stop_reason', 'time_share', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.stop_reason', 'max_seconds', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.verdict', 'unjudged', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.missing', 'gpu_telemetry', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.status', 'ok', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.note.content', '**ttt-profile mlp_1_dual decode b2 p1 g16**

| | |
| --- | --- |
| status | ok |
| verdict | unjudged: without gpu_telemetry (a CPU has no such telemetry, and other programs share it) |
| configuration | cpu, float32, torch.compile off, CUDA graph off, seed 0 |
| decode | 6.649 tokens/s, 95 % confidence interval [5.826, 7.588], coefficient of variation 1.471 % |
| decode step | 301.8 ms p50, 318.9 p90, 325.4 p99, 300.8 mean |
| prefill | 6.691 tokens/s, 298.9 ms, first token after 299.2 ms |
| passes | 2 timed, stopped by max_seconds, confidence interval ±13.25 %, 1 warm-up passes, not settled: time limit reached |
| prompt and decode | 6.651 tokens/s, 95 % confidence interval [6.054, 7.308] |
| roofline | 1,229,592,336 bytes per step, 1,229,660,160 FLOP per step |
| overhead | imports 7.912 s, build 3.35 s, compilation 1.376 s, warm-up 4.938 s, recording 0.02971 s |
| model | 306,319,552 parameters |
| host | a-host, torch 2.13.0+cpu, triton 3.7.1 |
', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.journal_id', '20261128-222223-fb0e0433', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.user', 'someone', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.source.name', 'ttt-mlflow', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.source.type', 'LOCAL', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.runName', 'ttt-125m mlp_1_dual prefill b1 p16', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.host', 'a-host', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.torch', '2.13.0+cpu', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.triton', '3.7.1', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.config_id', '2da90ccfbf26', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.entry_point', 'main', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.warmup_stop_reason', 'time_share', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.stop_reason', 'max_seconds', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.verdict', 'unjudged', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.missing', 'gpu_telemetry', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('ttt.status', 'ok', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.note.content', '**ttt-125m mlp_1_dual prefill b1 p16**

| | |
| --- | --- |
| status | ok |
| verdict | unjudged: without gpu_telemetry (a CPU has no such telemetry, and other programs share it) |
| configuration | cpu, float32, torch.compile off, CUDA graph off, seed 0 |
| prefill | 70.48 tokens/s, 95 % confidence interval [66.7, 77.3], coefficient of variation 7.112 %, 227.4 ms |
| passes | 6 timed, stopped by max_seconds, confidence interval ±7.522 %, 2 warm-up passes, not settled: time limit reached |
| drift | 11.27 % from the first third of the passes to the last (p 0.1847) |
| roofline | 502,878,536 bytes per step, 2,863,848,960 FLOP per step |
| overhead | imports 6.138 s, build 1.359 s, compilation 0.602 s, warm-up 0.469 s, recording 0.02462 s |
| model | 124,460,880 parameters |
| host | a-host, torch 2.13.0+cpu, triton 3.7.1 |
', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('model_name', 'ttt-profile', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('mode', 'decode', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('batch', '2', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('promptlen', '1', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('genlen', '16', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('inner_net', 'mlp_1_dual', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('dtype', 'float32', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('use_compile', 'false', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('cuda_graph', 'false', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('profile', 'none', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('nsys_export', 'none', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('device', 'cpu', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('warmup', 'auto', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('repeats', 'auto', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('precision_pct', '0.5', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('max_seconds', '2.0', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('thresholds', 'none', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('retry_invalid', '0', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('seed', '0', '838e5a8dce0448a584ea2e065478b000');
INSERT INTO params (key, value, run_uuid) VALUES ('model_name', 'ttt-125m', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('mode', 'prefill', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('batch', '1', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('promptlen', '16', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('genlen', '512', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('inner_net', 'mlp_1_dual', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('dtype', 'float32', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('use_compile', 'false', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('cuda_graph', 'false', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('profile', 'none', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('nsys_export', 'none', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('device', 'cpu', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('warmup', 'auto', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('repeats', 'auto', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('precision_pct', '0.5', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('max_seconds', '2.0', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('thresholds', 'none', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('retry_invalid', '0', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO params (key, value, run_uuid) VALUES ('seed', '0', '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('imports_s', 7.911729335784912, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('model_parameters', 306319552.0, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('decode_tokens_per_s', 6.649250269620145, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('decode_tokens_per_s_ci_low', 5.825739493577993, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('decode_tokens_per_s_ci_high', 7.588349273140209, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('decode_step_ms_p50', 301.84983850000003, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('decode_step_ms_p90', 318.92634130000005, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('decode_step_ms_p99', 325.42620394, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('decode_step_ms_mean', 300.8183345, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('warmup_passes', 1.0, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('measured_passes', 2.0, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('relative_half_width_pct', 13.254199406626558, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('relative_spread_pct', 1.4709465341731436, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('generation_tokens_per_s', 6.651361562726823, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('generation_tokens_per_s_ci_low', 6.053787495219634, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('generation_tokens_per_s_ci_high', 7.307521747147517, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('prefill_ms', 298.922419, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('prefill_tokens_per_s', 6.690699234572969, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('time_to_first_token_ms', 299.21792799905234, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('min_bytes_per_step', 1229592336.0, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('flops_per_step', 1229660160.0, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('setup_s', 3.349966370000402, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('compile_s', 1.3757688980003877, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('warmup_s', 4.937604832000943, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('recording_s', 0.029705361999731394, 1795904428539, '838e5a8dce0448a584ea2e065478b000', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('imports_s', 6.137646675109863, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('model_parameters', 124460880.0, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('prefill_tokens_per_s', 70.47514333667226, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('prefill_tokens_per_s_ci_low', 66.70225489329836, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('prefill_tokens_per_s_ci_high', 77.30459161397057, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('warmup_passes', 2.0, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('measured_passes', 6.0, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('relative_half_width_pct', 7.52203984178008, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('relative_spread_pct', 7.1116265223192725, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('drift_pct', 11.271601914878177, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('drift_p_value', 0.1846660358337408, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('prefill_ms', 227.4328065, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('min_bytes_per_step', 502878536.0, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('flops_per_step', 2863848960.0, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('setup_s', 1.3587934170009248, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('compile_s', 0.6020004700003483, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('warmup_s', 0.4689721449994977, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('recording_s', 0.0246213690006698, 1795904547340, '7277350434e74f2f97dfc0e4d22ab4d2', 0, 0);
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('imports_s', 7.911729335784912, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('model_parameters', 306319552.0, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('decode_tokens_per_s', 6.649250269620145, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('decode_tokens_per_s_ci_low', 5.825739493577993, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('decode_tokens_per_s_ci_high', 7.588349273140209, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('decode_step_ms_p50', 301.84983850000003, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('decode_step_ms_p90', 318.92634130000005, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('decode_step_ms_p99', 325.42620394, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('decode_step_ms_mean', 300.8183345, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('warmup_passes', 1.0, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('measured_passes', 2.0, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('relative_half_width_pct', 13.254199406626558, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('relative_spread_pct', 1.4709465341731436, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('generation_tokens_per_s', 6.651361562726823, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('generation_tokens_per_s_ci_low', 6.053787495219634, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('generation_tokens_per_s_ci_high', 7.307521747147517, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('prefill_ms', 298.922419, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('prefill_tokens_per_s', 6.690699234572969, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('time_to_first_token_ms', 299.21792799905234, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('min_bytes_per_step', 1229592336.0, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('flops_per_step', 1229660160.0, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('setup_s', 3.349966370000402, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('compile_s', 1.3757688980003877, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('warmup_s', 4.937604832000943, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('recording_s', 0.029705361999731394, 1795904428539, 0, 0, '838e5a8dce0448a584ea2e065478b000');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('imports_s', 6.137646675109863, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('model_parameters', 124460880.0, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('prefill_tokens_per_s', 70.47514333667226, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('prefill_tokens_per_s_ci_low', 66.70225489329836, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('prefill_tokens_per_s_ci_high', 77.30459161397057, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('warmup_passes', 2.0, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('measured_passes', 6.0, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('relative_half_width_pct', 7.52203984178008, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('relative_spread_pct', 7.1116265223192725, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('drift_pct', 11.271601914878177, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('drift_p_value', 0.1846660358337408, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('prefill_ms', 227.4328065, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('min_bytes_per_step', 502878536.0, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('flops_per_step', 2863848960.0, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('setup_s', 1.3587934170009248, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('compile_s', 0.6020004700003483, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('warmup_s', 0.4689721449994977, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('recording_s', 0.0246213690006698, 1795904547340, 0, 0, '7277350434e74f2f97dfc0e4d22ab4d2');
