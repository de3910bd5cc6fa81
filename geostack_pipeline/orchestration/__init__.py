"""The only Dagster code: resources, I/O managers, assets, checks, jobs and schedules over the stages."""
