-- Parts grow to one and a half gigabytes, about twenty million events, and no further: what the index of a filter costs grows with the part it is asked for, and a
-- page's window of time leaves out whole parts (docs/design/002-reading.md). Larger ones that are there stay as they are.
ALTER TABLE event_log MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1500000000;
