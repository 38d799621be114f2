"""Galleries of photos, searched by drawing and words.

- `gallery`: a gallery in a folder. `base`: what every gallery can be asked. `result`: one photo found.
- `photos`, `photo_files`: where photos come from. `encode`: encoding new ones. `build`: writing or updating a gallery.
- `table`: the gallery's folder and its table. `index`: kinds of index. `index_cache`: built here, kept by this user.
- `milvus_store`, `milvus_gallery`: the same on a Milvus server. `stores`: choosing between folder and server.
- `contact_sheet`: results as one HTML page. `pictures`: results, and what a sketch and a photo share, as pictures.
- `confidence`: is what was found convincing? `explain`: which parts of a sketch and a photo resemble each other.
- `service`: what a server over several galleries needs. `own_photos`: photos that its visitors upload.
- `packaged`: a gallery of photos that come with the program, built once for each user.
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
