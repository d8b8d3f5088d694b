//! Workloads and damage that nobody thought of.

use proptest::prelude::*;

use super::run::{Run, Step, Tearing};
use super::{options, workloads};
use crate::sim::SimDisk;
use crate::{Frame, Store};

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4u32, 0..2000usize).prop_map(|(count, len)| Step::Append(count, len)),
        2 => (0..5u64).prop_map(Step::Truncate),
        2 => Just(Step::Control),
        4 => Just(Step::Flush),
        1 => (0..4u64).prop_map(Step::Snapshot),
        2 => (0..300usize).prop_map(Step::Part),
        1 => (0..4u64).prop_map(Step::Finish),
        1 => (0..3u64, any::<bool>()).prop_map(|(ahead, keep)| Step::Install(ahead, keep)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_workload_with_crashes_between_its_lives_agrees_with_the_model(
        lives in prop::collection::vec((prop::collection::vec(any_step(), 1..40), any::<prop::sample::Index>(), any::<u64>()), 1..5),
    ) {
        let mut run = Run::format(Tearing::Lines, &options());
        for (steps, when, seed) in lives {
            run.steps(&steps).map_err(TestCaseError::fail)?;
            let events = when.index(run.disk.events() + 1);
            let point = run.disk.crash_at(events);
            let mut state = seed;
            let image = point.image(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> 40 & 3 != 0
            });
            let media = SimDisk::new(64, image.clone()).media();
            let (_, found) = Store::open_on(media, &options()).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let kept = run.model.explain(&found, run.model.bounds(events)).map_err(TestCaseError::fail)?;
            let mut model = run.model.clone();
            model.cut_to(kept);
            run = Run::open(Tearing::Lines, image, model, run.view + 1, &options()).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        noise in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..200)), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
        from_nothing in any::<bool>(),
    ) {
        let mut run = Run::format(Tearing::Sectors(512), &options());
        run.steps(&workloads::batches_and_control()).map_err(TestCaseError::fail)?;
        run.steps(&[Step::Snapshot(1), Step::Flush]).map_err(TestCaseError::fail)?;
        let mut images = run.disk.visible();
        if from_nothing {
            images[0].fill(0x5a);
        }
        for (at, bytes) in noise {
            let which = at.index(3);
            let start = at.index(images[which].len().max(1));
            for (to, from) in images[which].iter_mut().skip(start).zip(bytes) {
                *to = from;
            }
        }
        if let Some(cut) = cut {
            let len = cut.index(images[0].len());
            images[0].truncate(len);
        }
        if let Ok((mut store, _)) = Store::open_on(SimDisk::new(512, images).media(), &options()) {
            let (view, op) = store.last_viewstamp();
            if store.append(&Frame { view, first_op: op + 1, count: 1, previous: (view, op), ..Frame::default() }).is_ok() {
                store.flush().expect("the medium is sound again");
            }
        }
    }
}
