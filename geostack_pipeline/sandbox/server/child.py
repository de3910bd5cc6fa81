"""``python -m geostack_pipeline.sandbox.server.child``: the process that :class:`Sandbox` starts.

One line of configuration comes in on standard input, which then stays open for as long as the parent lives;
lines of JSON go out: progress, then ``ready`` or ``error``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.sandbox.config import ServeConfig
from geostack_pipeline.sandbox.processes import end_with_parent, read_line
from geostack_pipeline.sandbox.server.host import serve


def main() -> int:
    """Serve until the parent is gone or says stop."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Whatever a library prints goes to standard error, so that the parent reads messages only.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    asked = json.loads(read_line())
    stop = threading.Event()
    end_with_parent(asked["parent"], stop)
    config = ServeConfig.from_json(asked["config"])
    try:
        serve(
            config,
            ready=lambda about: say({"ready": about}),
            progress=lambda done, total: say({"progress": [done, total]}),
            stop=stop,
        )
    except GeostackError as error:
        say(
            {
                "error": {
                    "problem": error.problem,
                    "subject": error.subject,
                    "found": error.found,
                    "action": error.action,
                }
            }
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
