"""Sources that are not files here yet: addresses, members of zip archives, YouTube's videos.

`cache` keeps them, `web` talks to servers, and there is one module for each kind: `whole`, `zips`, `youtube`.
"""
