"""The report of a sweep as one page of HTML that needs no network."""
