"""Galleries of photos, searched by drawing and words.

- `gallery`: a gallery in a folder. `folder_gallery`: one state of it. `base`: what every gallery can be asked.
  `result`: one photo found.
- `changes`: what has changed since a table was written. `updates`: writing such changes, and making one table of them.
- `photos`, `photo_files`: where photos come from. `encode`: encoding new ones. `build`: building or updating a gallery;
  `publish`: putting the encoded photos together, and in place.
- `table`: the gallery's folder and its table. `index`: kinds of index. `compressed_index`: the one for millions of
  photos. `index_cache`: built here, kept by this user.
- `milvus_store`, `milvus_gallery`: the same on a Milvus server. `stores`: choosing between folder and server.
- `contact_sheet`: results as one HTML page. `pictures`: results, and what a sketch and a photo share, as pictures.
- `confidence`: is what was found convincing? `explain`: which parts of a sketch and a photo resemble each other.
- `service`: what a server over several galleries needs. `own_photos`: photos that its visitors upload.
- `packaged`: a gallery of photos that come with the program, built once for each user.
- `scale/`: more photos than one machine encodes, by Ray.
"""

from ..common.lazy import lazy_names

__all__ = ["Gallery", "Matches", "MilvusGallery", "Result", "SearchableGallery"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Gallery": "gallery",
        "Matches": "explain",
        "MilvusGallery": "milvus_gallery",
        "Result": "result",
        "SearchableGallery": "base",
    },
)
