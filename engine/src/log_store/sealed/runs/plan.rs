//! Which runs are to be merged. Pure: from what there is to what there should be.
//!
//! A block is `fan_out` segments, or `fan_out` blocks of the level below; where all of a block is there, a run is merged of it. The first
//! run is let grow beyond its block: where the filters of the others take too much of the memory that filters may have, the first run
//! takes them in. So all filters but one are in memory, and a stream that is nowhere costs one page read at most.

/// The first run takes others in where that makes it longer by this share of its length at least, so that it is not rewritten for little.
const GROWS_BY: u64 = 32;

/// Segments next to each other, both ends included.
pub(super) type Range = (u64, u64);

fn length((first, last): Range) -> u64 {
    last - first + 1
}

/// The blocks of a level of which all segments are there.
pub(super) fn blocks((first, last): Range, length: u64) -> impl Iterator<Item = Range> {
    ((first - 1).div_ceil(length)..last / length).map(move |block| (block * length + 1, (block + 1) * length))
}

/// The lengths of the blocks of each level, from the first level up to the last of which there can be one.
pub(super) fn lengths(fan_out: u64, last: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(fan_out), move |length| length.checked_mul(fan_out)).take_while(move |length| *length <= last)
}

/// The parts of a range, each a block as large as fits. The range begins where a block of the first level does, and ends where one ends.
pub(super) fn parts((first, last): Range, fan_out: u64) -> Vec<Range> {
    let (mut parts, mut next) = (Vec::new(), first);
    while next <= last {
        let fits = |length: &u64| (next - 1).is_multiple_of(*length) && next + length - 1 <= last;
        let length = lengths(fan_out, last).filter(fits).last().unwrap_or(last - next + 1);
        parts.push((next, next + length - 1));
        next += length;
    }
    parts
}

/// The range of the run that takes the place of the first run and those behind it, if the filters of the others take more than so many
/// bytes. Runs are given in their order, with what the filter of each takes.
pub(super) fn grown(runs: &[(Range, u64)], filter_bytes_max: u64) -> Option<Range> {
    let ((base, _), others) = runs.split_first()?;
    if others.iter().map(|(_, bytes)| bytes).sum::<u64>() <= filter_bytes_max {
        return None;
    }
    // Those without a gap, up to the last of the longest: shorter ones behind it have not grown to their own length yet.
    let mut end = base.1;
    let adjacent: Vec<Range> =
        others.iter().map(|(range, _)| *range).take_while(|range| range.0 == std::mem::replace(&mut end, range.1) + 1).collect();
    let longest = adjacent.iter().map(|range| length(*range)).max()?;
    let last = adjacent.iter().rev().find(|range| length(**range) == longest)?.1;
    (length((base.1 + 1, last)) * GROWS_BY >= length(*base)).then_some((base.0, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_those_of_which_all_segments_are_there() {
        assert_eq!(blocks((1, 25), 8).collect::<Vec<_>>(), [(1, 8), (9, 16), (17, 24)]);
        assert_eq!(blocks((3, 25), 8).collect::<Vec<_>>(), [(9, 16), (17, 24)]);
        assert_eq!(blocks((1, 7), 8).count(), 0);
        assert_eq!(lengths(8, 513).collect::<Vec<_>>(), [8, 64, 512]);
        assert_eq!(lengths(8, 7).count(), 0);
        assert_eq!(lengths(2, u64::MAX).count(), 63);
    }

    #[test]
    fn parts_are_as_large_as_fits() {
        assert_eq!(parts((1, 64), 8), [(1, 64)]);
        assert_eq!(parts((1, 88), 8), [(1, 64), (65, 72), (73, 80), (81, 88)]);
        assert_eq!(parts((57, 136), 8), [(57, 64), (65, 128), (129, 136)]);
    }

    #[test]
    fn the_first_run_takes_others_in_when_their_filters_are_too_large() {
        let runs = [((1, 64), 900), ((65, 128), 100), ((129, 192), 100), ((193, 200), 10)];
        assert_eq!(grown(&runs, 210), None);
        assert_eq!(grown(&runs, 209), Some((1, 192)));
        // Behind a gap nothing is taken in.
        assert_eq!(grown(&[runs[0], runs[2]], 50), None);
        assert_eq!(grown(&runs[..1], 0), None);
        assert_eq!(grown(&[], 0), None);
        // What is short beside the first run has to wait.
        assert_eq!(grown(&[((1, 512), 900), ((513, 520), 10)], 0), None);
        assert_eq!(grown(&[((1, 512), 900), ((513, 520), 10), ((521, 528), 10)], 0), Some((1, 528)));
    }
}
