def watch_current_thread():
    pass
