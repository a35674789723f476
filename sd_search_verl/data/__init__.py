"""Questions and corpora: from public or own files to what verl trains on and what is evaluated."""
