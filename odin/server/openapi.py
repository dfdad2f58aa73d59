"""The OpenAPI 3.1 description of the HTTP side, built from the same names the code uses."""

from collections.abc import Collection, Mapping
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

from msgspec.structs import fields

from odin import __version__
from odin.model import Quote

_JSON_TYPES: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def _schema(hint: object) -> dict[str, object]:
    if get_origin(hint) in {Union, UnionType}:
        return {"type": [_JSON_TYPES[part] for part in get_args(hint)]}
    return {"type": _JSON_TYPES[hint]}


def _object(
    optional: Collection[str] = (), /, **properties: dict[str, object]
) -> dict[str, object]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _array(items: dict[str, object]) -> dict[str, object]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, object]:
    return {"$ref": f"#/components/schemas/{name}"}


_STRING: dict[str, object] = {"type": "string"}
_BOOLEAN: dict[str, object] = {"type": "boolean"}
_INTEGER: dict[str, object] = {"type": "integer"}
_NUMBER: dict[str, object] = {"type": "number"}
_TEXT_OR_NULL: dict[str, object] = {"type": ["string", "null"]}


def _answer(description: str, schema: dict[str, object]) -> dict[str, object]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _get(
    summary: str,
    answer: dict[str, object],
    *,
    query: tuple[tuple[str, bool, str], ...] = (),
    other: Mapping[str, object] | None = None,
) -> dict[str, object]:
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": is_required,
            "description": text,
            "schema": _STRING,
        }
        for name, is_required, text in query
    ]
    responses: dict[str, object] = {"200": answer, **(other or {})}
    return {"get": {"summary": summary, "parameters": parameters, "responses": responses}}


def openapi() -> dict[str, object]:
    """Return the document as a JSON-able dict."""
    quote = {name: _schema(hint) for name, hint in get_type_hints(Quote).items()}
    optional = [field.name for field in fields(Quote) if not field.required]
    feed = _object(name=_STRING, state=_STRING, stale=_BOOLEAN)
    schemas = {
        "Error": _object(type=_STRING, status=_STRING, message=_STRING),
        "Quote": _object(optional, **quote),
        "Feed": feed,
        "Failure": _object(
            stock=_STRING, code=_STRING, message=_STRING, suggestions=_array(_STRING)
        ),
        "Instrument": _object(
            exchange=_STRING,
            segment=_STRING,
            token=_STRING,
            symbol=_STRING,
            series=_STRING,
            name=_STRING,
            isin=_STRING,
            kind=_STRING,
            tick_size=_NUMBER,
            lot_size=_INTEGER,
        ),
        "Health": _object(
            status=_STRING,
            degraded=_array(_STRING),
            version=_STRING,
            uptime_s=_INTEGER,
            connections=_INTEGER,
            instruments=_INTEGER,
            feed=_ref("Feed"),
            feeds=_array(_ref("Feed")),
            simulated=_BOOLEAN,
        ),
        "MarketStatus": _object(
            market_open=_BOOLEAN,
            market_hours=_STRING,
            phase=_STRING,
            current_time=_STRING,
            current_date=_STRING,
            next_open=_TEXT_OR_NULL,
            next_close=_TEXT_OR_NULL,
            timezone=_STRING,
            holiday=_TEXT_OR_NULL,
            session=_TEXT_OR_NULL,
            streaming_data=_BOOLEAN,
            calendar_known=_BOOLEAN,
            gate=_STRING,
            simulated=_BOOLEAN,
            feed=_ref("Feed"),
            feeds=_array(_ref("Feed")),
        ),
    }
    bad = {"400": _answer("The query was not understood", _ref("Error"))}
    ready = _object(ready=_BOOLEAN)
    quotes = _object(
        quotes=_array(_ref("Quote")),
        without_quote=_array(_STRING),
        failed_stocks=_array(_STRING),
        failed_details=_array(_ref("Failure")),
        simulated=_BOOLEAN,
    )
    paths = {
        "/health": _get("Liveness, and what is degraded", _answer("Alive", _ref("Health"))),
        "/ready": _get(
            "Whether clients are served",
            _answer("Ready", ready),
            other={"503": _answer("Starting or stopping", ready)},
        ),
        "/metrics": _get(
            "Prometheus metrics",
            {"description": "Text format", "content": {"text/plain": {"schema": _STRING}}},
        ),
        "/api/market-status": _get(
            "What the market is doing", _answer("Status", _ref("MarketStatus"))
        ),
        "/api/instruments": _get(
            "Search instruments by symbol, token or name",
            _answer("Instruments", _object(instruments=_array(_ref("Instrument")))),
            query=(
                ("search", True, "1 to 64 characters"),
                ("limit", False, "1 to 100, default 20"),
            ),
            other=bad,
        ),
        "/api/quotes": _get(
            "Last known quotes, at any hour",
            _answer("Quotes", quotes),
            query=(("stocks", True, "Symbols and tokens, separated by commas"),),
            other=bad,
        ),
    }
    denied = _answer(
        "Authentication is required, or the key or the Host may not do this", _ref("Error")
    )
    hurried = _answer("Too many requests, or too many failed ones", _ref("Error"))
    paths["/api/tickets"] = {
        "post": {
            "summary": "A single-use ticket for a WebSocket of a browser",
            "responses": {
                "200": _answer("Ticket", _object(ticket=_STRING, expires_in_s=_INTEGER)),
                "404": _answer("Authentication is off", _ref("Error")),
            },
        }
    }
    for path, methods in paths.items():
        if path in ("/health", "/ready"):
            continue
        for operation in methods.values():
            # Without a key where authentication is off.
            operation["security"] = [{"apiKey": []}, {}]  # type: ignore[index]
            operation["responses"] |= {  # type: ignore[index]
                "401": denied,
                "403": denied,
                "429": hurried,
            }
    security = {"apiKey": {"type": "http", "scheme": "bearer"}}
    info = {"title": "Odin Streamer", "version": __version__}
    components = {"schemas": schemas, "securitySchemes": security}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}
