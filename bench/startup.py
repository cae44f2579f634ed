"""How long `import jogak` and `jogak --help` take, beside Python alone and beside `import torch`.

Each is started in turn, so that all of them meet the same machine. The first round only warms the file cache.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 15
STARTED = {
    "python alone": ["-c", "pass"],
    "import jogak": ["-c", "import jogak"],
    "jogak --help": ["-m", "jogak", "--help"],
    "jogak train --help": ["-m", "jogak", "train", "--help"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in STARTED}
    for turn in range(ROUNDS + 1):
        for name, arguments in STARTED.items():
            took = seconds(arguments)
            if turn:
                taken[name].append(took)
    print(f"{'':22}{'median s':>10}{'least':>8}{'most':>8}   times python alone")
    alone = statistics.median(taken["python alone"])
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"{name:22}{median:10.3f}{min(times):8.3f}{max(times):8.3f}{median / alone:10.1f}")


if __name__ == "__main__":
    main()
