"""The Space's actions as tools, as an assistant meets them through an MCP client."""

import ast
import asyncio
import base64

import pytest
from spaces import build, serve, write_photos, write_sketch

pytest.importorskip("gradio", reason="the Space needs splip[space]")
mcp = pytest.importorskip("mcp", reason="tools for assistants need splip[mcp]")

from mcp.client.streamable_http import streamablehttp_client  # noqa: E402


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    return build(write_photos(folder / "photos", ["fish", "tree"]), folder / "mini")


@pytest.fixture(scope="module")
def address(gallery, tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server"), gallery, options=["--mcp"]) as address:
        yield address


def with_tools(address, use):
    """Run `use` with a session of an MCP client."""

    async def run():
        async with (
            streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await use(session)

    return asyncio.run(run())


def test_an_assistant_finds_photos_by_a_sketch_by_words_and_by_one_another(address, gallery, tmp_path):
    sketch = write_sketch(tmp_path / "sketch.png", "tree", 1)

    async def use(session):
        async def rows(name, **arguments):
            answer = await session.call_tool(name, arguments)
            assert not answer.isError, answer
            return [photo["row"] for photo in ast.literal_eval(answer.content[0].text)["photos"]]

        data = "data:image/png;base64," + base64.b64encode(sketch.read_bytes()).decode()
        drawn, spoken = await rows("search", sketch=data, k=5), await rows("search", words="a fish", k=5)
        picture = await session.call_tool("picture", {"words": "a fish"})
        wrong = await session.call_tool("search", {})
        why = await session.call_tool("explain", {"sketch": data, "row": drawn[0]})
        assert ast.literal_eval(why.content[0].text)["pairs"]
        return drawn, spoken, await rows("similar", row=drawn[0], k=5), picture.content, wrong

    drawn, spoken, near, picture, wrong = with_tools(address, use)
    wanted = gallery.search(sketch, 5)
    assert drawn == [result.row for result in wanted]
    assert spoken == [result.row for result in gallery.search(None, 5, "a fish")]
    assert near == [result.row for result in gallery.similar(wanted[0], 5)]
    assert picture[0].type == "image" and picture[0].mimeType == "image/png"
    assert wrong.isError and "Nothing is drawn yet" in wrong.content[0].text


def test_every_tool_and_argument_is_described(address):
    tools = {tool.name: tool for tool in with_tools(address, lambda session: session.list_tools()).tools}
    assert set(tools) == {"search", "similar", "explain", "picture", "galleries"}
    for tool in tools.values():
        assert len(tool.description) > 30
        assert all(len(it.get("description", "")) > 10 for it in tool.inputSchema["properties"].values()), tool
    assert "none to search without" in tools["search"].inputSchema["properties"]["like"]["description"]
