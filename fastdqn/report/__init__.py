"""Report: pictures and pages of what run folders hold; it reads them, and runs nothing."""
