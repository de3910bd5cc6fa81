"""The control endpoint: what the sandbox serves, its faults, its changes, its request log and its truth.

=========================  =====================================================================
``GET /``                  endpoints, settings, seed
``GET /truth``             the planted plumes
``GET /faults``            faults that are on
``POST /faults``           switch one on: ``{"kind": "429", "target": "earth_search", "count": 2}``
``DELETE /faults``         switch all off
``GET /log?target=…``      requests so far: totals and entries
``DELETE /log``            forget them
``GET /changes``           granules of EMIT that are listed, held back and deleted
``POST /changes``          change them: ``{"action": "release" | "revise" | "delete", "item": "CH4PLM_002_20240607"}``;
                           ``revise`` takes ``"label": "wider" | "wrong" | "true"`` for a plume; ``"at"`` is the
                           revision date, which otherwise is now. Every granule with the text in its name changes; ``item`` may
                           be a list of texts
``DELETE /changes``        take all of them back, as if the sandbox had just started
=========================  =====================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.server.changes import Changes
from geostack_pipeline.sandbox.server.faults import FaultBoard, make_fault
from geostack_pipeline.sandbox.server.wrap import RequestLog


def make_control_app(
    about: Mapping[str, Any], board: FaultBoard, log: RequestLog, changes: Changes
) -> Starlette:
    """Return the endpoint; ``about`` is what ``GET /`` and ``GET /truth`` tell."""

    async def home(_: Request) -> JSONResponse:
        return JSONResponse(
            {name: value for name, value in about.items() if name not in {"truth", "winds", "credentials"}}
        )

    async def truth(_: Request) -> JSONResponse:
        return JSONResponse(about["truth"])

    async def faults(request: Request) -> JSONResponse:
        if request.method == "DELETE":
            board.clear()
        elif request.method == "POST":
            try:
                number = board.add(make_fault(json.loads(await request.body())))
            except (SettingsError, ValueError, TypeError, AttributeError) as error:
                return JSONResponse({"error": str(error)}, 400)
            return JSONResponse({"number": number}, 201)
        return JSONResponse({"faults": board.active(), "shown": board.shown})

    async def requests(request: Request) -> JSONResponse:
        if request.method == "DELETE":
            log.clear()
        return JSONResponse(log.report(request.query_params.get("target")))

    async def change(request: Request) -> JSONResponse:
        if request.method == "GET":
            return JSONResponse(changes.report())
        try:
            asked = None if request.method == "DELETE" else json.loads(await request.body())
            names = await changes.apply(asked)
        except (SettingsError, ValueError, TypeError, AttributeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"changed": names}, 200 if asked is None else 201)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/truth", truth),
            Route("/faults", faults, methods=["GET", "POST", "DELETE"]),
            Route("/changes", change, methods=["GET", "POST", "DELETE"]),
            Route("/log", requests, methods=["GET", "DELETE"]),
        ]
    )
