"""What a run of the bench leaves behind: rows in groups, as JSON, as Markdown, as pictures, and in the READMEs."""
