//! The names of runs: index files of a range of segments.

/// The folder of runs.
pub(crate) const FOLDER: &str = "index";

/// The name of a run, within its folder.
pub(crate) fn run_name(first: u64, last: u64) -> String {
    format!("{first:09}-{last:09}.run")
}

/// The first and last segment of the run with this name.
pub(crate) fn parse_run_name(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_suffix(".run")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (run_name(first, last) == name && first <= last).then_some((first, last))
}

/// Whether this is a run that was not written to its end.
pub(crate) fn is_unfinished_run(name: &str) -> bool {
    name.strip_suffix(".tmp").and_then(parse_run_name).is_some()
}
