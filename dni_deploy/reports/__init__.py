"""Reports: contact sheet, page and plot."""
