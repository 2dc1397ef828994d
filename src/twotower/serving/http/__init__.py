"""The HTTP service over one bundle, or two. Its modules need the extra ``serve``."""
