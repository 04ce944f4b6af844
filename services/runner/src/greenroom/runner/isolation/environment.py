"""Which of the runner's variables its sessions may see: those that are named here, and nothing else.

The rest is for the runner: credentials of the broker, settings, whatever the host's shell or the launcher had. What a
bot needs beyond this is a secret that it names, or a variable that `GREENROOM_SESSION_ENV` names.
"""

from collections.abc import Collection, Mapping
from typing import Final

# Where things are, in which language and time zone, how the interpreter runs, whom TLS trusts.
_NAMES: Final = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "PATH",
        "REQUESTS_CA_BUNDLE",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TEMP",
        "TMP",
        "TMPDIR",
        "TZ",
        "TZDIR",
        "USER",
        "VIRTUAL_ENV",
        # How the session is reached from the outside, and reaches it.
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        # Where models and data of libraries are kept, and how many threads they take.
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "NLTK_DATA",
        "NUMBA_CACHE_DIR",
        "OMP_NUM_THREADS",
        "PIPECAT_SETUP_FILES",
        # Where a bot finds a server that speaks like OpenAI's: an address, no key.
        "OPENAI_BASE_URL",
        "TRANSFORMERS_OFFLINE",
        "XDG_CACHE_HOME",
        "XDG_DATA_HOME",
        # Where a launcher put the runner.
        "NOMAD_ALLOC_DIR",
        "NOMAD_TASK_DIR",
        "NOMAD_REGION",
        "NOMAD_DC",
    }
)
_PREFIXES: Final = ("LC_", "PYTHON")


def session_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return what of `environment` a session may see.

    Args:
        environment: of the runner.
        more: names that are let through beside those of the list.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _NAMES or name.startswith(_PREFIXES) or name in more
    }
