"""The HTML pages for a browser, and the charts on them."""
