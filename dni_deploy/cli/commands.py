"""The table of commands and the help summary that is made of it."""

from __future__ import annotations

PROGRAM_NAME = "dni-deploy"

COMPLETE_VARIABLE = "_DNI_DEPLOY_COMPLETE"

COMMANDS = {
    "export": "Make one bundle from the checkpoints of a family.",
    "inspect": "Show what a bundle holds.",
    "check": "Tell whether checkpoints blend, before anything is exported.",
    "build": "Build the engine for this machine ahead of time.",
    "refit": "Write the model blended at one alpha.",
    "run": "Process pictures at one alpha.",
    "filter": "Filter raw video from a pipe into a pipe, alpha live or over time.",
    "sweep": "Process one picture at many alphas: a strip and a page with a slider.",
    "tune": "Find the alpha that is best by a measure, or by the noise.",
    "slider": "Keep a slider in the bundle whose equal steps look equal.",
    "video": "Process a film, alpha over time, sound and timestamps kept.",
    "serve": "Show it live in the browser, with a slider for alpha.",
    "bench": "Time an alpha change and a frame, against the alternatives.",
    "doctor": "Tell what is installed, which engines can run, and why not.",
    "demo": "See it work: noise a photograph, sweep alpha, write the pictures.",
    "completion": "Print the completion script of a shell.",
}
"""Every command, in the order of the work, with its one line; `cli/NAME.py` holds it as `command`."""

GLOBAL_OPTIONS = {
    "-q, --quiet": "No progress on stderr.",
    "-v, --verbose": "Log to stderr, twice for details.",
    "--debug": "Show the traceback of an error.",
    "--version": "Print the version.",
    "-h, --help": "Print this page, or a command's own.",
}


def format_help_summary() -> str:
    """What `dni-deploy -h` prints: click's group shows the same text, so there is one source."""
    lines = [
        f"Usage: {PROGRAM_NAME} [OPTIONS] COMMAND [ARGS]...",
        "",
        "  Blend the checkpoints of one network family inside a running engine, live.",
        "",
        "Commands:",
        *(f"  {name:<11} {line}" for name, line in COMMANDS.items()),
        "",
        "Options:",
        *(f"  {name:<14} {line}" for name, line in GLOBAL_OPTIONS.items()),
        "",
        "Examples:",
        f"  {PROGRAM_NAME} demo",
        f"  {PROGRAM_NAME} export psnr=psnr.pth gan=gan.pth -o sr.dni",
        f"  {PROGRAM_NAME} run sr.dni in.png -o out.png --alpha psnr=0.35,gan=0.65",
        "",
        f"  {PROGRAM_NAME} COMMAND -h tells more. Every option has a variable, such as DNI_RUN_THREADS for run --threads.",
    ]
    return "\n".join(lines)
