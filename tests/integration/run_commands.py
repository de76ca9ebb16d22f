"""Run several command lines in one process, since importing anomalib takes longer than the commands.

    python run_commands.py FOLDER '{"name": ["anoclip", "test", ...], ...}'

The output of each goes to FOLDER/name.txt, its exit code to FOLDER/name.rc.
"""

import json
import os
import sys
import traceback
from pathlib import Path


def run(words: list[str]) -> int:
    program, *arguments = words
    sys.argv = list(words)
    try:
        if program == "anomalib":
            from anomalib.cli.cli import main

            main()
            return 0
        from anoclip_anomalib.cli.main import main as anoclip

        return anoclip(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    folder, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name, words in commands.items():
        sys.stdout.flush()
        sys.stderr.flush()
        with (folder / f"{name}.txt").open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            # A word that begins with @ is the newest file of that name, written by a command before.
            code = run([str(next(Path().rglob(word[1:]))) if word.startswith("@") else word for word in words])
            sys.stdout.flush()
            sys.stderr.flush()
        (folder / f"{name}.rc").write_text(str(code))
