"""Where a study lives when that is not this machine's disk: an object store, or a folder that several machines mount.

store.py reads and writes named bytes, lease.py says who may write, segments.py keeps the journal where nothing can be
appended to, copies.py moves studies between a store and a folder, data.py fills a node's copy of a dataset,
trouble.py tells what is wrong with a place.
"""
