# Sourced by test.sh: programs that some tests need and that pip does not install.
# shellcheck shell=bash

any_of() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null && return 0
    done
    return 1
}

# Without a C++ compiler, a browser, PostgreSQL or nginx, the tests that need it are skipped. For root on Debian (a
# container, CI), missing programs are installed. For other users, the script prints how to install them.
prepare_programs() {
    local packages=()
    [[ -n ${CXX:-} ]] || any_of g++ clang++ || packages+=(g++)
    any_of chromium chromium-browser google-chrome || packages+=(chromium)
    any_of initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)
    any_of nginx /usr/sbin/nginx || packages+=(nginx)
    [[ ${#packages[@]} -gt 0 ]] || return 0
    if [[ $(id -u) -eq 0 && ${TTT_MLFLOW_ENV:-} != current ]] && any_of apt-get; then
        echo "Installing ${packages[*]} (once)" >&2
        apt-get update -qq >/dev/null &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null &&
            return 0
    fi
    echo "Tests that need ${packages[*]} are skipped (on Debian and Ubuntu: apt-get install ${packages[*]})" >&2
}
