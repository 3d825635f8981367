def write_pages(d):
    pass
