"""Street scenes drawn from polygons: a stand-in for Cityscapes.

Units are metres in the world (x right, y up, z ahead, origin on the road below
the camera) and pixels (x right, y down) in the picture.
"""
