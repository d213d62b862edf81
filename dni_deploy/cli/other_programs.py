"""Words and options of other programs, and what stands for them here.

Users come from realesrgan-ncnn-vulkan, Real-ESRGAN, waifu2x, ESRGAN's net_interp.py, FFmpeg and vendors' tools. Nothing here is
accepted: an option of theirs is answered with ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

COMMAND_BY_WORD: Mapping[str, str] = {
    **dict.fromkeys(("upscale", "enhance", "process", "infer", "inference", "predict", "apply", "denoise", "image"), "run"),
    **dict.fromkeys(("convert", "pack", "bundle", "import", "compile-model"), "export"),
    **dict.fromkeys(("blend", "interp", "interpolate", "merge", "mix", "net-interp", "net_interp"), "refit"),
    **dict.fromkeys(("info", "show", "print", "list", "ls", "cat"), "inspect"),
    **dict.fromkeys(("preview", "live", "gui", "ui", "web", "webui", "view", "open", "server", "start"), "serve"),
    **dict.fromkeys(("benchmark", "perf", "time", "profile"), "bench"),
    **dict.fromkeys(("optimize", "compile", "trtexec"), "build"),
    **dict.fromkeys(("calibrate", "calibration", "recalibrate"), "build"),
    **dict.fromkeys(("pipe", "stream"), "filter"),
    **dict.fromkeys(("grid", "strip", "sheet"), "sweep"),
    **dict.fromkeys(("search", "find", "best"), "tune"),
    **dict.fromkeys(("movie", "film", "transcode"), "video"),
    **dict.fromkeys(("verify", "test", "validate", "compare", "diff"), "check"),
    **dict.fromkeys(("env", "devices", "system"), "doctor"),
    **dict.fromkeys(("jobs", "job", "progress", "monitor", "queue", "watch", "ps"), "status"),
    **dict.fromkeys(("example", "tutorial", "quickstart"), "demo"),
    **dict.fromkeys(("completions", "complete"), "completion"),
    **dict.fromkeys(("man", "manual", "usage", "commands"), "help"),
}
"""The command that does what a word of another program asks for."""


@dataclass(frozen=True)
class OtherOption:
    """What stands for options of other programs.

    Attributes:
        spellings: The options, as their programs spell them.
        answers: Option of ours, or "" for any command, and the answer where the command has it; the first one counts.
    """

    spellings: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]


OUTPUT_ANSWER = (("--output", "the output is -o"),)
STRENGTH_ANSWER = (("--alpha", "the strength is --alpha, 0 to 1, the first member's share"), ("", "this takes no alpha"))
MODEL_ANSWER = "the network is the bundle, the first argument"

OTHER_OPTIONS = (
    OtherOption(("-i", "--input", "--inputs", "--in", "--src", "--source", "--image"), (("", "the input has no option: {usage}"),)),
    OtherOption(("--out", "--out-file", "--outdir", "--out-dir", "--output-dir", "--output_dir", "--dst", "--save"), OUTPUT_ANSWER),
    OtherOption(
        ("-s", "-S", "--scale", "--outscale", "--upscale", "--factor"),
        (
            ("--outscale", "--outscale scales the output; the network has a scale of its own"),
            ("", "the scale is the network's own, and `dni-deploy inspect BUNDLE` shows it"),
        ),
    ),
    OtherOption(
        ("-n", "--noise-level", "--noise_level", "--noise"),
        (("--alpha", f"a noise level is an alpha, --alpha; {MODEL_ANSWER}"), ("", MODEL_ANSWER)),
    ),
    OtherOption(
        ("-m", "-mp", "--model", "--models", "--model-name", "--model_name", "--model-path", "--model_path", "--weights", "--ckpt",
         "--checkpoint", "--network", "--bundle", "--onnx", "--engine-file"),
        (("--arch", "checkpoints have no option: {usage}"), ("", f"{MODEL_ANSWER}: {{usage}}")),
    ),
    OtherOption(
        ("-dn", "-a", "--denoise-strength", "--denoise_strength", "--denoise", "--strength", "--ratio", "--interp", "--interpolation",
         "--interpolate", "--blend", "--lambda", "--weight", "--share", "--mix", "--level", "--sigma"),
        STRENGTH_ANSWER,
    ),
    OtherOption(
        ("-g", "--gpu", "--gpu-id", "--gpu_id", "--gpuid", "--cuda", "--cuda-device"),
        (("--device", "the GPU's number is --device; the CPU is --engine onnxruntime"), ("", "this uses no GPU")),
    ),
    OtherOption(
        ("--cpu", "--backend", "--provider", "--ep", "--runtime", "--trt", "--tensorrt", "--onnxruntime"),
        (("--engine", "--engine chooses: auto, tensorrt, tensorrt-rtx, onnxruntime-gpu or onnxruntime (the CPU)"),
         ("", "this runs on the CPU")),
    ),
    OtherOption(
        ("-f", "--ext", "--output-format", "--format"),
        (
            ("--ext", "the format of outputs in a folder is --ext; that of one file is the suffix of -o"),
            ("--format", "the format of the stream is --format"),
            ("--output", "the suffix of -o is the format"),
        ),
    ),
    OtherOption(
        ("-t", "--tile-size", "--tile_size", "--tilesize", "--tiles"),
        (("--tile", "the side of a tile is --tile PIXELS"), ("", "this knows no tiles")),
    ),
    OtherOption(
        ("--tile-pad", "--tile_pad", "--tile-overlap", "--tile_overlap", "--pre-pad", "--pre_pad", "--padding", "--prepadding"),
        (("--overlap", "what neighboring tiles share is --overlap PIXELS"), ("", "this knows no tiles")),
    ),
    OtherOption(("-x", "--tta"), (("", "there is no test-time augmentation; without it outputs are the same every time"),)),
    OtherOption(
        ("-j", "--jobs", "--num-threads", "--num_threads", "--nthreads", "--workers", "--num-workers", "--cores"),
        (("--threads", "the number of threads is --threads"), ("", "this needs no number of threads")),
    ),
    OtherOption(
        ("-y", "--yes", "--overwrite", "--replace", "--clobber"),
        (("--force", "an output that exists is replaced by --force"), ("", "nothing is overwritten here")),
    ),
    OtherOption(
        ("--fp16", "--half", "--fp32", "--no-half", "--bf16", "--dtype"),
        (("--precision", "--precision fp16 or fp32, on a GPU"), ("", "this computes in fp32")),
    ),
    OtherOption(
        ("-c:v", "-vcodec", "--vcodec", "--encoder"), (("--codec", "the encoder is --codec"), ("", "only `video` encodes video")),
    ),
    OtherOption(("-crf",), (("--crf", "write --crf"),)),
    OtherOption(("-preset",), (("--preset", "write --preset"),)),
    OtherOption(("-pix_fmt", "--pix_fmt"), (("--pix-fmt", "write --pix-fmt"),)),
    OtherOption(("-ss", "--start", "--seek"), (("--from", "the start is --from TIME"),)),
    OtherOption(("-to", "--end", "--stop", "--duration"), (("--to", "the end is --to TIME"),)),
    OtherOption(("-r", "--rate", "--framerate", "--frame-rate"), (("--recursive", "write --recursive"), ("--fps", "the rate is --fps"))),
    OtherOption(("-vf", "-filter_complex"), (("", "filters are for FFmpeg, before or behind `dni-deploy filter`"),)),
    OtherOption(("--recursive", "--subdirs"), (("", "this enters no folders within folders"),)),
    OtherOption(("--face_enhance", "--face-enhance"), (("", "there is no face restoration; blend a network for faces instead"),)),
    OtherOption(("-V", "--version"), (("", "`dni-deploy --version` prints the version"),)),
    OtherOption(("-?", "/?", "/h", "-help", "--usage", "--man"), (("", "-h shows the help"),)),
    OtherOption(("--steps", "--n-steps", "--num", "--stops"), (("", "this has no steps; `dni-deploy sweep` has"),)),
    OtherOption(("--log", "--log-level", "--loglevel", "-loglevel"), (("", "-v logs to stderr, -vv every step"),)),
    OtherOption(("--config", "--yaml", "-opt"), (("", "there is no file of settings; each option has a variable, see dni-deploy -h"),)),
)  # fmt: skip


def find_command_by_word(word: str) -> str | None:
    """Finds the command that does what a word of another program asks for."""
    return COMMAND_BY_WORD.get(word.lower())


def answer_other_option(spelling: str, own_options: Collection[str], usage: str) -> str | None:
    """Says what stands for an option of another program.

    Args:
        spelling: The option as it was written.
        own_options: The options of the command.
        usage: How the command is called.

    Returns:
        A clause such as "the input has no option: ..."; None where no program is known to have the option, or where the command
        has nothing like it.
    """
    for other in OTHER_OPTIONS:
        if spelling in other.spellings:
            for own, answer in other.answers:
                if not own or own in own_options:
                    return answer.replace("{usage}", usage)
    return None
