"""What the Space's page and programs can ask for, and the photos that are shown."""

import base64
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr
from anyio import CapacityLimiter, to_thread
from gradio.data_classes import ImageData
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from modeling_splip.search.confidence import CONVINCING
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.own_photos import OwnPhotos
from modeling_splip.search.pictures import results_picture
from modeling_splip.search.result import Result
from modeling_splip.search.service import OWN_PHOTOS, Finder, read_sketch

MAX_PIXELS = 40_000_000
AT_ONCE = 16
MAX_WAITING = 200
SHOWN = 12
IN_PICTURE = 6


class Actions:
    """What the page and programs can ask for: every method but those about visits is an endpoint."""

    def __init__(self, finder: Finder):
        self.finder = finder
        self._own: WeakValueDictionary[str | None, OwnPhotos] = WeakValueDictionary()  # by session
        self._seats = CapacityLimiter(AT_ONCE)
        self._waiting = 0

    async def search(
        self,
        sketch: ImageData | None = None,
        words: str = "",
        weight: float = 0.5,
        gallery: str | None = None,
        k: float = SHOWN,
        like: float | None = None,
        own: OwnPhotos | None = None,
    ) -> dict[str, Any]:
        """Find the photos of a gallery that look like a sketch, fit words, or resemble a photo that was found.

        Give at least one of sketch, words and like; given together they are weighed against each other.

        Args:
            sketch: image file of a drawing, dark lines on white; none to search without.
            words: what the photo shows, such as "red" or "a red cup", in English; "" for none.
            weight: of the words beside the sketch, from 0 (sketch only) to 1 (words only).
            gallery: name of a gallery, as `galleries` lists them.
            k: number of photos wanted, from 1 to 50.
            like: row of a photo that was found in this gallery, to find photos like it; none to search without.

        Returns:
            photos, best first, each with its row in the gallery, score (higher is better), label ("" where unknown),
            name of its file, and picture, the address of a thumbnail below this server's; milliseconds that it took;
            the confidence in what a sketch alone finds, the share of random scribbles that find less near photos,
            otherwise null; a remark if this is low, or the sketch was inverted or does not look drawn, otherwise "".
        """

        def search() -> tuple[list[Result], str, float | None]:
            image, spoken = _sketch(sketch), (words or "").strip()
            found = self.finder.search(image, words, weight, gallery, k, own, like)
            share = self.finder.choose(gallery, own).confidence(found) if not spoken and like is None else None
            doubt = f"Not convincing: of random scribbles, {1 - (share or 0):.0%} find photos at least as near."
            doubts = [doubt] if share is not None and share < CONVINCING else []
            return found, " ".join(filter(None, [self.finder.remark(image), *doubts])), share

        start = time.perf_counter()
        found, remark, share = await self._run(search)
        took = {"milliseconds": round(1000 * (time.perf_counter() - start))}
        return self._answer(found, gallery, own) | took | {"confidence": share, "remark": remark}

    async def similar(self, row: float, gallery: str, k: float, own: OwnPhotos | None) -> dict[str, Any]:
        """Find photos that resemble one that was found.

        Args:
            row: of that photo in the gallery, as `search` returned it.
            gallery: name of the gallery that it was found in.
            k: number of photos wanted, from 1 to 50.

        Returns:
            photos, best first, as `search` returns them.
        """
        return self._answer(await self._run(self.finder.similar, row, gallery, k, own), gallery, own)

    async def explain(
        self,
        sketch: ImageData | None = None,
        row: float = 0,
        gallery: str | None = None,
        whole: bool = False,
        own: OwnPhotos | None = None,
    ) -> dict[str, Any]:
        """Tell why a photo was found: which parts of a sketch and of the photo the model finds alike.

        Both are cut to squares and these into patches, counted as (row, column) from the upper left corner.

        Args:
            sketch: image file of a drawing, dark lines on white.
            row: of the photo in the gallery, as `search` returned it.
            gallery: name of the gallery that it was found in.
            whole: whether to return all cosines and the two squares, too; these are many numbers.

        Returns:
            grid, the numbers of rows and columns; pairs, best first, of a patch of the sketch and one of the photo that
            are each other's nearest, with their cosine; score, of the two as wholes. If `whole`: cosines, of every
            patch of the sketch, row by row, with every patch of the photo; drawn, whether there are lines in a patch of
            the sketch; squares, the two as data URLs.
        """
        matches = await self._run(lambda: self.finder.explain(_sketch(sketch), row, gallery, own))
        answer = {
            "grid": list(matches.grid),
            "pairs": [{**pair._asdict(), "cosine": round(pair.cosine, 3)} for pair in matches.pairs],
            "score": round(matches.score, 6),
        }
        if whole:
            answer["cosines"] = [[round(cosine, 3) for cosine in row] for row in matches.cosines.tolist()]
            answer["drawn"] = matches.drawn.tolist()
            answer["squares"] = [_data_url(matches.sketch, "PNG"), _data_url(matches.photo, "JPEG")]
        return answer

    async def picture(
        self,
        sketch: ImageData | None = None,
        words: str = "",
        weight: float = 0.5,
        gallery: str | None = None,
        like: float | None = None,
        own: OwnPhotos | None = None,
    ) -> Image.Image:
        """Make one picture of a sketch and the first six photos that it finds, to show to others.

        Args:
            sketch: image file of a drawing, dark lines on white; none to search without.
            words: what the photo shows, in English; "" for none.
            weight: of the words beside the sketch, from 0 (sketch only) to 1 (words only).
            gallery: name of a gallery, as `galleries` lists them.
            like: row of a photo that was found in this gallery, to find photos like it; none to search without.

        Returns:
            the picture, a PNG file.
        """
        return await self._run(self._picture, sketch, words, weight, gallery, like, own)

    async def own_photos(
        self, files: list[str], gallery: str, add: bool, own: OwnPhotos | None, request: gr.Request
    ) -> tuple[OwnPhotos, dict[str, Any]]:
        """Make uploaded photos searchable for this session only, as the gallery "My own photos".

        Args:
            files: up to 200 image files.
            gallery: name of the gallery whose model encodes them.
            add: whether the session's earlier photos stay; otherwise the new ones take their place.

        Returns:
            photos, how many can be searched now; unreadable, the names of the files that cannot; said, both in words.
        """
        new = await self._run(self.finder.index, files, gallery, MAX_PIXELS, own if add else None)
        if new is not own:
            self.leave(request)
        self._own[request.session_hash] = new
        return new, {"photos": len(new.gallery), "unreadable": new.unreadable(), "said": new.summary()}

    async def galleries(self) -> dict[str, int]:
        """List the galleries that can be searched.

        Returns:
            their names, with their numbers of photos.
        """
        return {name: len(gallery) for name, gallery in self.finder.galleries.items()}

    def leave(self, request: gr.Request) -> None:
        """Delete the photos of a session that ends."""
        own = self._own.pop(request.session_hash, None)
        if own is not None:
            own.delete()

    def photo(self, request: Request) -> Response:
        """Answer with the thumbnail of a photo, by its gallery's key and its row."""
        key, row = request.path_params["key"], request.path_params["row"]
        galleries = {_key(gallery): gallery for gallery in self.finder.galleries.values()}
        own = {photos.key: photos.gallery for photos in list(self._own.values())}
        gallery = (galleries | own).get(key)
        if gallery is None or row >= len(gallery):
            return Response("There is no such photo.", 404)
        kept = "no-store" if key in own else "private, max-age=86400"
        return Response(gallery.result(row).thumbnail_bytes, media_type="image/jpeg", headers={"Cache-Control": kept})

    def _picture(
        self, sketch: ImageData | None, words: str, weight: float, name: str, like: float | None, own: OwnPhotos | None
    ) -> Image.Image:
        image, title = _sketch(sketch), (words or "").strip() or "Drawn"
        found = self.finder.search(image, words, weight, name, IN_PICTURE, own, like)
        if like is not None:
            liked = self.finder.choose(name, own).result(int(like))
            image, title = image or liked.thumbnail, f"Like {liked.label or Path(liked.path).name}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "found.png"
            results_picture([(title, image)], [found], file)
            with Image.open(file) as picture:
                return picture.copy()

    def _answer(self, found: list[Result], name: str, own: OwnPhotos | None) -> dict[str, Any]:
        key = own.key if own and name == OWN_PHOTOS else _key(self.finder.choose(name, own))
        return {"photos": [it.as_public_dict() | {"picture": f"photo/{key}/{it.row}"} for it in found]}

    async def _run(self, action: Callable, *args: Any) -> Any:
        """Run it in a thread; what is wrong with the input is shown to the visitor in a sentence."""
        if self._waiting >= MAX_WAITING:
            raise gr.Error("Too many people search at the moment: try again in a few seconds.", print_exception=False)
        self._waiting += 1
        try:
            return await to_thread.run_sync(action, *args, limiter=self._seats)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            self._waiting -= 1


def _key(gallery: Gallery) -> str:
    """Return what the address of a photo begins with: another one whenever the gallery's photos are others."""
    return hashlib.sha256(json.dumps(gallery.manifest, sort_keys=True).encode()).hexdigest()[:16]


def _sketch(data: ImageData | None) -> Image.Image | None:
    """Decode a sketch, which is a file that was uploaded, or comes as a data URL as the page sends it."""
    if data is None:
        return None
    if data.path:
        return read_sketch(data.path, MAX_PIXELS)
    head, _, content = (data.url or "").partition(";base64,")
    return read_sketch(base64.b64decode(content) if head.startswith("data:image/") else b"", MAX_PIXELS)


def _data_url(image: Image.Image, kind: str) -> str:
    small, encoded = image.convert("RGB"), io.BytesIO()
    small.thumbnail((512, 512))
    small.save(encoded, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"
