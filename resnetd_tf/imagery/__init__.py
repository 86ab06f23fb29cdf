"""New Sentinel-2 images: how 13 bands are shown (`rendering`) and how patches are labelled (`patches`)."""
