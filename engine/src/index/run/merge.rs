//! Many sorted lists as one, holding one item of each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::Place;
use crate::index::file::IndexProblem;

/// The items of all lists, sorted. A list that turns out not to be sorted is an error; nothing follows an error.
pub(super) fn sorted<T: Ord + Copy, I: Iterator<Item = Result<T, IndexProblem>>>(
    lists: impl Iterator<Item = I>,
) -> Result<impl Iterator<Item = Result<T, IndexProblem>>, IndexProblem> {
    let mut lists: Vec<I> = lists.collect();
    let mut heads = BinaryHeap::with_capacity(lists.len());
    for (number, list) in lists.iter_mut().enumerate() {
        if let Some(first) = list.next() {
            heads.push(Reverse((first?, number)));
        }
    }
    Ok(std::iter::from_fn(move || {
        let mut smallest = heads.peek_mut()?;
        let Reverse((item, number)) = *smallest;
        match lists[number].next() {
            Some(Ok(next)) if next >= item => *smallest = Reverse((next, number)),
            None => drop(PeekMut::pop(smallest)),
            failed => {
                drop(smallest);
                heads.clear();
                let unsorted = IndexProblem::Damaged("the hashes of an index are not sorted");
                return Some(Err(failed.and_then(Result::err).unwrap_or(unsorted)));
            }
        }
        Some(Ok(item))
    }))
}

/// Of all places of one hash the newest.
pub(super) fn newest(places: impl Iterator<Item = Result<Place, IndexProblem>>) -> impl Iterator<Item = Result<Place, IndexProblem>> {
    let mut places = places.peekable();
    std::iter::from_fn(move || {
        let mut place = match places.next()? {
            Ok(place) => place,
            failed => return Some(failed),
        };
        while let Some(Ok(later)) = places.next_if(|next| next.as_ref().is_ok_and(|next| next.0 == place.0)) {
            place = later;
        }
        Some(Ok(place))
    })
}
