"""How the packaged backbones were made: `mini_clip` from the drawn world, `small_clip` from real pictures."""
