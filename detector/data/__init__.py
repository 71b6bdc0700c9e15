"""From a COCO-format folder to whole batches on the device."""
