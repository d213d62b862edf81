"""The table of commands and the help summary that is made of it."""

from __future__ import annotations

PROGRAM_NAME = "dni-deploy"

COMPLETE_VARIABLE = "_DNI_DEPLOY_COMPLETE"

COMMANDS = {
    "export": "Export the checkpoints of a model family as one bundle.",
    "inspect": "Show what a bundle holds.",
    "check": "Check whether checkpoints blend, before anything is exported.",
    "build": "Build the engine for this machine ahead of time.",
    "refit": "Write the model blended at one alpha.",
    "run": "Process images at one alpha.",
    "filter": "Filter raw video from a pipe into a pipe; alpha is live or changes over time.",
    "sweep": "Process one image at many alphas: a contact sheet and a page with a slider.",
    "tune": "Find the alpha that is best by a metric, or by the noise.",
    "slider": "Store a perceptually uniform slider in the bundle.",
    "video": "Process a video; alpha may change over time, sound and timestamps are kept.",
    "status": "Show how far a run into a folder or a video is, running or stopped.",
    "serve": "Show images or video live in the browser, with a slider for alpha.",
    "web": "Write a static site that runs the network in the visitor's browser.",
    "bench": "Time an alpha change and a frame, against the alternatives.",
    "doctor": "Show what is installed, which engines can run, and why others cannot.",
    "demo": "Run a demo: add noise to a photograph, sweep alpha, write a page with a slider.",
    "completion": "Print the completion script of a shell.",
    "help": "Show the help of a command, or the manual page.",
}
"""Every command, in the order of the work, with its one line; `cli/NAME.py` holds it as `command`."""

QUIET_HELP = "Show no progress on stderr."
VERBOSE_HELP = "Log to stderr; -vv logs every step."
DEBUG_HELP = "Show the traceback of an error."

GLOBAL_OPTIONS = {
    "-q, --quiet": QUIET_HELP,
    "-v, --verbose": VERBOSE_HELP,
    "--debug": DEBUG_HELP,
    "--version": "Print the version.",
    "-h, --help": "Print this page, or a command's own.",
}


def format_help_summary() -> str:
    """Formats what `dni-deploy -h` prints: click's group shows the same text, so there is one source."""
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
        f"  {PROGRAM_NAME} COMMAND -h shows more. Every option but --force has a variable, such as DNI_RUN_THREADS.",
    ]
    return "\n".join(lines)
