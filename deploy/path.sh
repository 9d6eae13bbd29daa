export PATH=/opt/raybox/.venv/bin:$PATH
