-- Merge less often, and in fewer files: docs/design/002-reading.md and 003-ingest-speed.md have the measurements. Merging a row costs three times what
-- inserting it does, so parts of about the same size wait until there are ten of them, not five; old ones are merged anyway, the server sees to that. The lengths
-- of a string column are in one file with its texts, which is one place less to look for each scattered row. Parts that are there stay as they are.
ALTER TABLE event_log MODIFY SETTING merge_selector_base = 10, string_serialization_version = 'single_stream';
