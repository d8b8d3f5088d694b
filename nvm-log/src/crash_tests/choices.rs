//! Which of the pieces that were not flushed a crash keeps.

use crate::sim::Event;

/// How many choices are tried at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choices {
    /// Up to so many pieces, every subset of them is tried.
    pub(super) exhaustive_pieces: usize,
    /// Up to so many lines, every subset of whole lines.
    pub(super) exhaustive_lines: usize,
    /// Of so many lines, the first and the last, every subset of the words, with patterns of all the others.
    pub(super) header_lines: usize,
    /// Random subsets, if not all were tried.
    pub(super) random: usize,
    pub(super) seed: u64,
}

impl Choices {
    /// What a test of one bug can afford.
    pub(super) const FEW: Choices =
        Choices { exhaustive_pieces: 9, exhaustive_lines: 4, header_lines: 0, random: 64, seed: 1 };
    /// For crashes within a crash, of which there are many.
    pub(super) const FEWEST: Choices =
        Choices { exhaustive_pieces: 4, exhaustive_lines: 0, header_lines: 0, random: 9, seed: 3 };
    /// What the search for unknown bugs begins with.
    pub(super) const MANY: Choices =
        Choices { exhaustive_pieces: 12, exhaustive_lines: 8, header_lines: 2, random: 128, seed: 2 };

    /// Random subsets and nothing else.
    pub(super) fn only_random(random: usize, seed: u64) -> Choices {
        Choices { exhaustive_pieces: 0, exhaustive_lines: 0, header_lines: 0, random, seed }
    }

    /// Calls `visit` with one choice after the other: for each piece, whether it is kept.
    pub(super) fn each<E>(&self, pieces: &[Event], mut visit: impl FnMut(&[bool]) -> Result<(), E>) -> Result<(), E> {
        let count = pieces.len();
        if count <= self.exhaustive_pieces {
            let mut keep = vec![false; count];
            return (0..1u32 << count).try_for_each(|bits| {
                keep.iter_mut().enumerate().for_each(|(at, keep)| *keep = bits >> at & 1 == 1);
                visit(&keep)
            });
        }
        if self.exhaustive_lines > 0 {
            regular(count, &mut visit)?;
        }
        let lines = lines(pieces);
        if lines.len() <= self.exhaustive_lines && lines.len() < count {
            whole_lines(&lines, &mut visit)?;
        }
        let ends = lines
            .iter()
            .take(self.header_lines)
            .chain(lines.iter().skip(self.header_lines).rev().take(self.header_lines));
        for line in ends.filter(|line| (2..=8).contains(&line.len())) {
            words_of(line, count, &mut visit)?;
        }
        self.random(count, &mut visit)
    }

    fn random<E>(&self, count: usize, visit: &mut impl FnMut(&[bool]) -> Result<(), E>) -> Result<(), E> {
        let mut keep = vec![false; count];
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ count as u64;
        for round in 0..self.random {
            // Few lost, half lost, or few kept.
            let odds = [3, 16, 29][round % 3];
            for keep in &mut keep {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *keep = state >> 59 < odds;
            }
            visit(&keep)?;
        }
        Ok(())
    }
}

/// Prefixes, suffixes, one missing, one present, none and all.
fn regular<E>(count: usize, visit: &mut impl FnMut(&[bool]) -> Result<(), E>) -> Result<(), E> {
    let mut keep = vec![false; count];
    let mut pattern = |kept: &dyn Fn(usize) -> bool| {
        keep.iter_mut().enumerate().for_each(|(at, keep)| *keep = kept(at));
        visit(&keep)
    };
    pattern(&|_| true)?;
    pattern(&|_| false)?;
    for chosen in 0..count {
        pattern(&|at| at <= chosen)?;
        pattern(&|at| at != chosen)?;
        pattern(&|at| at == chosen)?;
        pattern(&|at| at >= chosen)?;
    }
    Ok(())
}

/// The pieces of each run that lies in one line of one medium.
fn lines(pieces: &[Event]) -> Vec<std::ops::Range<usize>> {
    let line_of = |piece: &Event| match piece {
        Event::Store { which, offset, .. } => (*which, offset / 64),
        Event::Resize { which, .. } | Event::Flush { which } => (*which, usize::MAX),
    };
    let mut lines: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        match lines.last_mut() {
            Some(line) if line_of(&pieces[line.start]) == line_of(piece) => line.end = at + 1,
            _ => lines.push(at..at + 1),
        }
    }
    lines
}

fn whole_lines<E>(lines: &[std::ops::Range<usize>], visit: &mut impl FnMut(&[bool]) -> Result<(), E>) -> Result<(), E> {
    let mut keep = vec![false; lines.last().map_or(0, |line| line.end)];
    (0..1u32 << lines.len()).try_for_each(|bits| {
        for (index, line) in lines.iter().enumerate() {
            keep[line.clone()].fill(bits >> index & 1 == 1);
        }
        visit(&keep)
    })
}

/// Every subset of one line's words, with all, none and patterns of the others.
fn words_of<E>(
    line: &std::ops::Range<usize>,
    count: usize,
    visit: &mut impl FnMut(&[bool]) -> Result<(), E>,
) -> Result<(), E> {
    let mut keep = vec![false; count];
    for bits in 0..1u32 << line.len() {
        let word = |at: usize| bits >> (at - line.start) & 1 == 1;
        for pattern in 0..6 {
            for (at, keep) in keep.iter_mut().enumerate() {
                *keep = match pattern {
                    _ if line.contains(&at) => word(at),
                    0 => true,
                    1 => false,
                    2 => at < line.start,
                    3 => at > line.start,
                    4 => at % 2 == 0,
                    _ => at % 3 != 0,
                };
            }
            visit(&keep)?;
        }
    }
    Ok(())
}
