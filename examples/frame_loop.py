"""Runs a frame loop whose alpha is set from outside: by OSC, by HTTP, or by your own code, from any thread.

python examples/frame_loop.py sr.dni --osc 9123 --http 9124
"""

import argparse

import numpy as np

import dni_deploy as dni


def main() -> None:
    """Renders frames, and prints the alpha of each one whose alpha is new."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--osc", type=int, help="UDP port; /dni/alpha with one number")
    parser.add_argument("--http", type=int, help="TCP port; PUT /alpha")
    parser.add_argument("--frames", type=int, default=250)
    arguments = parser.parse_args()

    with dni.open_session(arguments.bundle) as session:
        members = session.members
        shared_alpha = dni.SharedAlpha(members, dni.Coefficients.parse({members[0]: 1.0}, members), slew=2.0)
        with dni.open_listeners(shared_alpha, osc=arguments.osc, http=arguments.http, note=print):
            shown = None
            for number in range(arguments.frames):
                frame = make_frame(number)
                alpha = shared_alpha.at(number / 25, number)
                picture = session(frame, alpha=alpha)
                if alpha != shown:
                    print(f"frame {number}: {alpha}, {picture.shape[1]}x{picture.shape[0]}", flush=True)
                shown = alpha
                if number == 10:
                    shared_alpha.set_alpha({members[0]: 0.5}, "my own knob")  # as a slider of yours would


def make_frame(number: int) -> np.ndarray:
    """Makes a frame, uint8 (48, 64, 3): a camera, a decoder or a renderer in your program."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, (number * 2) % 64] = 255
    return frame


if __name__ == "__main__":
    main()
