"""What raybox may not have yet. Each program goes as far as it is let, so a row changes when there is more."""

from __future__ import annotations

import re
from typing import Any

from .programs import Client, needs, program, same, that


@program
async def pause_and_resume(c: Client) -> None:
    needs(c.Sandbox, "pause")
    sandbox = await c.create()
    await c.done(sandbox.run_code("kept = 1"))
    await c.done(sandbox.pause())
    same((await c.done(sandbox.get_info())).state.value, "paused")
    await c.done(sandbox.connect())
    same((await c.done(sandbox.run_code("kept"))).text, "1")


@program
async def create_pausing_at_timeout(c: Client) -> None:
    needs(c.Sandbox, "create", "lifecycle")
    sandbox = await c.create(lifecycle={"on_timeout": "pause"})
    await c.done(sandbox.kill())


@program
async def create_resuming_by_traffic(c: Client) -> None:
    needs(c.Sandbox, "create", "lifecycle")
    sandbox = await c.create(lifecycle={"on_timeout": "pause", "auto_resume": True})
    await c.done(sandbox.kill())


@program
async def snapshot_create(c: Client) -> None:
    needs(c.Sandbox, "create_snapshot")
    sandbox = await c.create()
    await c.done(sandbox.files.write("kept", "1"))
    snapshot = await c.done(sandbox.create_snapshot())
    other = await c.create(template=snapshot.snapshot_id)
    same(await c.done(other.files.read("kept")), "1")
    await c.done(c.Sandbox.delete_snapshot(snapshot.snapshot_id))


@program
async def snapshot_list(c: Client) -> None:
    needs(c.Sandbox, "list_snapshots")
    await c.done(c.Sandbox.list_snapshots().next_items())


@program
async def snapshot_delete(c: Client) -> None:
    needs(c.Sandbox, "delete_snapshot")
    same(await c.done(c.Sandbox.delete_snapshot("no-such-snapshot")), False)


@program
async def fork(c: Client) -> None:
    needs(c.Sandbox, "fork")
    sandbox = await c.create()
    await c.done(sandbox.run_code("kept = 1"))
    for child in await c.done(sandbox.fork(count=2)):
        if isinstance(child, Exception):
            raise child
        c.made.append(child)
        same((await c.done(child.run_code("kept"))).text, "1")


@program
async def template_build(c: Client) -> None:
    template = c.of_e2b("Template")
    definition: Any = template().from_base_image().run_cmd("true")
    await c.done(template.build(definition, alias="conformance", cpu_count=1, memory_mb=512))


@program
async def template_exists(c: Client) -> None:
    template = c.of_e2b("Template")
    needs(template, "exists")
    same(await c.done(template.exists("no-such-template")), False)


@program
async def template_tags(c: Client) -> None:
    template = c.of_e2b("Template")
    needs(template, "get_tags")
    that(isinstance(await c.done(template.get_tags("base")), list), "a list")


@program
async def volume_create(c: Client) -> None:
    volume = await c.done(c.of_e2b("Volume").create("conformance"))
    await c.done(c.of_e2b("Volume").destroy(volume.volume_id))


@program
async def volume_list(c: Client) -> None:
    that(isinstance(await c.done(c.of_e2b("Volume").list()), list), "a list")


@program
async def volume_mounts(c: Client) -> None:
    needs(c.Sandbox, "create", "volume_mounts")
    await c.create(volume_mounts={"/mnt/own": "conformance"})


@program
async def secret_create(c: Client) -> None:
    secret = c.of_e2b("Secret")
    await c.done(secret.create("conformance", "value"))
    await c.done(secret.destroy("conformance"))


@program
async def secret_list(c: Client) -> None:
    await c.done(c.of_e2b("Secret").list().next_items())


@program
async def workload_identity(c: Client) -> None:
    needs(c.Sandbox, "create", "iam")
    await c.create(iam={"tokens": {"own": {"audience": "example.org", "token_type": "JWT-SVID"}}})


@program
async def mcp_create(c: Client) -> None:
    needs(c.Sandbox, "create", "mcp")
    await c.create(mcp={"exa": {"apiKey": "none"}})


@program
async def mcp_url(c: Client) -> None:
    that(re.fullmatch(r"https://50005-[a-z0-9]+\..*/mcp", (await c.sandbox()).get_mcp_url()), "by its port")
