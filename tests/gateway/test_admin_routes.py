"""Administrators' routes of a gateway without a launcher; with one: ``tests/server``."""

from __future__ import annotations

import asyncio

import pytest
from fake_triton import FakeTriton
from jsonschema import Draft202012Validator
from schemas import closed, response_of
from scripted import gateway

from atoll_client.gateway.core.route import Route
from atoll_client.gateway.routes import ROUTES

ADMIN = [route for route in ROUTES if route.admin]


@pytest.mark.parametrize("route", ADMIN, ids=lambda r: r.method + r.path)
def test_without_a_launcher_nothing_is_managed(route: Route) -> None:
    async def main() -> None:
        async with FakeTriton({}) as triton, gateway(triton.address) as http:
            description = closed((await http.get("/openapi.json")).json())
            operation = description["paths"][route.path][route.method.lower()]
            answer = await http.request(route.method, route.path, json=route.example)
            assert answer.status_code == 403 and "launcher" in answer.text
            schema = response_of(description, operation, 403)["content"]["application/json"][
                "schema"
            ]
            components = {"components": description["components"]}
            Draft202012Validator({**schema, **components}).validate(answer.json())

    asyncio.run(main())
