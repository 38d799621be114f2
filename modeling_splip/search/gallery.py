"""A gallery in a folder: build it, open it, bring it up to date while it is searched."""

import copy
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import numpy as np
import pyarrow as pa
from datasets.search import FaissIndex

from .base import SearchableGallery
from .build import build_gallery
from .changes import removals, write_changes
from .confidence import FIRST
from .folder_gallery import FolderGallery
from .index_cache import open_index
from .result import Result
from .table import DAMAGED, TableReader, local_folder, read_manifest, table_of
from .updates import UpdateReport, checked_rows, compact, encode_files, replace_manifest, stored_name, writing


class Gallery(FolderGallery, SearchableGallery):
    """A gallery in a folder: a table, an index, a manifest, and what has changed since the table was written.

    Updates may go on while other threads search: a search sees all of a batch or nothing of it.

    Attributes:
        folder: where it lies.
        manifest: what `manifest.json` says: model, fingerprint, dim, count, index, unreadable photos.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], reader: TableReader, index: FaissIndex):
        SearchableGallery.__init__(self, str(folder), manifest)
        FolderGallery.__init__(self, folder, manifest, reader, index)
        self._turn = Lock()
        self._renewal = RLock()  # a state that was read earlier never takes the place of a later one

    @classmethod
    def build(cls, photos: Any, model: Any, processor: Any, out: str | os.PathLike, **options: Any) -> "Gallery":
        """Encode photos into a gallery folder, or bring one up to date, and open it.

        Photos that are as they were are not encoded again, photos that are gone are removed, and a file that cannot be
        read is left out and named in `manifest["unreadable"]`. A build that was interrupted leaves the former gallery
        as it was, and goes on where it stopped when it is run again.

        Args:
            photos: a folder (searched recursively; a photo's sub-folder is its label), a prepared dataset's folder (its
                gallery split), a Hub id, a list of files, or a `datasets.Dataset` with an image column.
            model: a retrieval model, on the device where it shall run.
            processor: its processor.
            out: the gallery folder: new, empty, or a gallery.
            **options: `model_name` (to find the model again; default: where it was loaded from), `split` (of a
                dataset), `index` ("auto" by size, "exact", "hnsw" or "ivf"), `batch_size`, `workers` (threads that
                decode), `precision` of the towers ("auto": bf16 on a GPU; "fp32", "bf16"), `max_pixels` (of one photo),
                `follow_paths` (read the files that a dataset's image cells name), `progress`.

        Raises:
            FileNotFoundError, ValueError, OSError: in one sentence, if there are no photos, none can be read, or `out`
                cannot be written; nothing is left behind then.
        """
        model = model.for_search()
        build_gallery(photos, model, processor, out, **options)
        return cls.open(out, (model, processor))

    @classmethod
    def open(cls, folder: str | os.PathLike, model: str | tuple[Any, Any] | None = None) -> "Gallery":
        """Open a gallery.

        Args:
            folder: as `build` wrote it, here or on another machine; or the Hub id of a dataset repository with one.
            model: the name of a model, or a loaded model with its processor; default: the one that the manifest names,
                loaded at the first search.

        Raises:
            FileNotFoundError: if there is no finished gallery.
            OSError: if it does not come from the Hub.
            ValueError: if it is damaged, or was built with another model.
        """
        folder = local_folder(folder)
        manifest = read_manifest(folder)
        while True:
            try:
                gallery = cls._read(folder, manifest)
                break
            except DAMAGED as error:
                before, manifest = manifest, read_manifest(folder)
                if manifest == before:  # otherwise another process has published a new one meanwhile
                    reason = " ".join(str(error).split())
                    raise ValueError(
                        f"Gallery '{folder}' is damaged ({reason}): build it again with "
                        f"`splip index PHOTOS --out {shlex.quote(str(folder))}`."
                    ) from error
        if model is not None:
            gallery.use(model)
        return gallery

    @classmethod
    def _read(cls, folder: Path, manifest: dict[str, Any]) -> "Gallery":
        """Return the gallery that a manifest describes. Raises one of `DAMAGED` where the files are others."""
        reader = table_of(folder / manifest["data"])
        if len(reader) != manifest["count"]:
            raise ValueError(f"{len(reader)} rows, {manifest['count']} expected")
        reader.check_columns(manifest["dim"])
        gallery = cls(folder, manifest, reader, open_index(reader, manifest))
        gallery._change(manifest)
        return gallery

    def _now(self) -> "Gallery":
        """Return this gallery as it is now; it stays so whatever is written."""
        with self._turn:
            return copy.copy(self)

    def _become(self, other: "Gallery") -> None:
        """Take another state of this gallery for this one, at once."""
        names = ("manifest", "index", "_reader", "_table", "_light", "_changes")
        with self._turn:
            vars(self).update({name: vars(other)[name] for name in names})

    def refresh(self) -> bool:
        """Take what other processes have written since this gallery was opened; return whether there was anything.

        Raises:
            FileNotFoundError, ValueError: if it is gone or damaged, or is now one of another model.
        """
        with self._renewal:
            manifest = read_manifest(self.folder)
            if manifest == self.manifest:
                return False
            if manifest["fingerprint"] != self.manifest["fingerprint"]:
                name = manifest["model"]
                raise ValueError(f"Gallery '{self.folder}' was built again with model '{name}': open it again.")
            new = self._now()
            try:
                if manifest["data"] == new.manifest["data"]:
                    new._change(manifest)
                else:
                    new = Gallery.open(self.folder)
            except DAMAGED:  # or replaced once more meanwhile: this says which
                new = Gallery.open(self.folder)
            self._become(new)
        return True

    def update(
        self,
        add: Sequence[str | os.PathLike] = (),
        remove: Sequence[str | os.PathLike] = (),
        *,
        batch_size: int | None = None,
        wait: float = 60,
    ) -> UpdateReport:
        """Add photos, replace those that have changed, and remove others: all of it at once, or nothing.

        The batch is written to the gallery's folder and searched from then on, here at once, in other processes after
        `refresh`. Many batches make searches slower, until `compact` or `splip index` makes one table of them.

        Args:
            add: files. A photo of the same path is replaced.
            remove: files, or paths as results name them. The files may be gone.
            batch_size: photos encoded at once.
            wait: seconds to wait for another process that writes this gallery.

        Raises:
            OSError: if another process writes for longer, or the folder cannot be written.
            ValueError: if a photo to remove is not in the gallery, is to be added too, or none would be left.
        """
        for name, paths in (("add", add), ("remove", remove)):
            if isinstance(paths, str | os.PathLike):
                raise ValueError(f"{name} must be a list of files, got {str(paths)!r}.")
        rows, unreadable = self._reader.schema.empty_table(), []
        if add:
            model, processor = self._loaded()
            schema, root = self._reader.schema, self.manifest["root"]
            rows, unreadable = encode_files(add, model, processor, root, schema, batch_size)
        report = self.put(rows, [str(path) for path in remove], wait=wait)
        report.unreadable = unreadable
        return report

    def put(self, rows: pa.Table, remove: Sequence[str] = (), *, wait: float = 60) -> UpdateReport:
        """Do what `update` does with photos that are encoded already.

        Args:
            rows: with the gallery's columns, each path once.
            remove: as in `update`.
            wait: as in `update`.

        Raises:
            OSError, ValueError: as `update`; also if the rows do not fit the gallery.
        """
        rows = checked_rows(rows, self._reader.schema)
        with writing(self.folder, wait) as side:
            self.refresh()
            now = self._now()
            paths, gone = rows["path"].to_pylist(), now._names(remove)
            known = now._known(paths)
            if both := set(paths) & set(gone):
                raise ValueError(f"Photo '{min(both)}' is to be added and removed in one update: pass it once.")
            left = len(now) - len(gone) + len(paths) - len(known)
            if left == 0:
                raise ValueError(f"Gallery '{self.folder}' would hold no photo: a gallery needs one.")
            if paths or gone:
                batch = pa.concat_tables([rows, removals(gone, rows.schema)])
                name = write_changes(self.folder / now.manifest["data"], batch)
                manifest = now.manifest | {"changes": [*now.manifest.get("changes", []), name]}
                now._change(manifest)
                with self._renewal:
                    replace_manifest(self.folder, side, manifest)
                    self._become(now)
        return UpdateReport(len(paths) - len(known), len(known), len(gone))

    def compact(self, progress: bool = True, wait: float = 60) -> None:
        """Make one table and one index of table and changes; the gallery's rows get other numbers.

        Searches go on meanwhile, and updates wait. The new table takes the former one's place at once.

        Raises:
            OSError: if another process writes the gallery, or it cannot be written; then it is as it was.
        """
        with writing(self.folder, wait):
            self.refresh()
            now = self._now()
            if now._changes is not None:
                compact(self.folder, now.manifest, now._reader, now._changes, progress)
                self.refresh()

    def _names(self, remove: Sequence[str]) -> list[str]:
        """Return the names in the gallery of photos to remove."""
        names = {path: stored_name(self.manifest["root"], path) for path in remove}
        known = self._known([*names, *names.values()])
        for path, name in names.items():
            if path not in known and name not in known:
                raise ValueError(f"Photo '{path}' is not in gallery '{self.folder}': remove photos that are.")
        return list(dict.fromkeys(path if path in known else name for path, name in names.items()))

    def search_vectors(self, queries: np.ndarray, *args: Any, **kwargs: Any) -> list[list[Result]]:
        """Find photos as every gallery does, among those that there are when it is called."""
        return super(Gallery, self._now()).search_vectors(queries, *args, **kwargs)

    def similar(self, photo: Result | Any, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Result]:
        """Find photos as every gallery does; a result must still be a photo of this gallery."""
        if not isinstance(photo, Result):
            return super().similar(photo, k, where)
        now = self._now()
        now._check_rows([photo])
        return super(Gallery, now).similar(photo, k, where)

    def confidence(self, results: Sequence[Result]) -> float | None:
        """Return what every gallery does; the results must be those of this gallery as it is."""
        now = self._now()
        now._check_rows(results[:FIRST])
        return super(Gallery, now).confidence(results)

    def _check_rows(self, results: Sequence[Result]) -> None:
        """Raise ValueError if the row of a result is now another photo's."""
        for photo in results:
            if photo.row in range(len(self._light)) and self.result(photo.row).path != photo.path:
                raise ValueError(f"Row {photo.row} is not '{photo.path}', as the gallery has changed: search again.")
