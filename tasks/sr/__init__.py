"""Super-resolution: WDSR and EDSR on photographs, scored as the papers do."""
