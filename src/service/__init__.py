"""An async FastAPI service that is already in production on the day it is cloned."""
