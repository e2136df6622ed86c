//! The conformance suite on the naive model, and the proof that it finds mistakes.

use eventuali::testing::{CASES, Home, ModelHome, PlantedBug, PlantedHome, run_case};

fn boxed<H: Home + 'static>(home: H) -> Box<dyn Home> {
    Box::new(home)
}

mod the_naive_model {
    eventuali::conformance_suite!(|| super::boxed(super::ModelHome::default()));
}

#[test]
fn every_planted_bug_is_found_by_the_case_that_names_it() {
    for bug in PlantedBug::ALL {
        let backend = || boxed(PlantedHome::new(ModelHome::default(), *bug));
        let run = std::panic::catch_unwind(|| run_case(bug.found_by(), &backend));
        assert!(run.is_err(), "{} does not find {bug:?}", bug.found_by());
    }
}

#[test]
fn cases_have_names_of_their_own() {
    let mut names: Vec<_> = CASES.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CASES.len());
}
