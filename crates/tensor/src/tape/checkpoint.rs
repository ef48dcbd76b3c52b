//! Activation checkpointing: a branch of the residual stream keeps its input, forgets what was computed from it, and is
//! run again in the backward pass.
//!
//! While a step's first rows go forward, the memory of the gradients holds nothing: those of a layer are written when the
//! layer is differentiated, and all later layers have been by then. So inputs are parked there, and, where there is
//! room, also what products and attention computed, which then need not be computed again. The product at a branch's end
//! is computed again only where a norm follows it: else only its gradients are wanted. It must not know what a branch computes.

use super::{Mode, Node, Saved, Tape, Var};
use crate::{Body, Branch, Ops, Phase, Shape, Tensor, kernels};
use std::ops::Range;

/// Which branches are forgotten, and which gradients are idle.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints {
    /// Branches with a lower number are forgotten. The last ones need not be: they are differentiated first, when the
    /// backward pass of no other needs memory.
    pub branches: usize,
    /// Where in the flat buffer the gradients begin that are all zero now and are not written before the layers after
    /// them are differentiated; none where an earlier micro-batch has left gradients.
    pub idle_from: Option<usize>,
}

/// A value in idle gradients.
pub(super) struct Parked {
    range: Range<usize>,
    shape: Shape,
}

/// The input of a forgotten branch.
pub(super) enum Input {
    Kept(Tensor),
    Parked(Parked),
}

/// A forgotten branch.
pub(super) struct Forgotten {
    branch: Branch,
    x: usize,
    out: usize,
    input: Input,
    /// What was remembered of it, in the order of its operations.
    remembered: Range<usize>,
}

/// Idle gradients: from `top` to `end` nothing is parked. Empty when there are none.
#[derive(Default)]
pub(super) struct Lot {
    top: usize,
    end: usize,
}

/// How the operations of a branch treat what they compute.
pub(super) enum Way {
    /// As the tape's mode says.
    Plain,
    /// They park it where there is room, leaving room for `reserve` floats.
    Forget { reserve: usize },
    /// They take what was parked, and compute what was not.
    Again { remembered: Range<usize> },
}

impl<'a> Tape<'a> {
    /// The same tape that forgets branches (activation checkpointing).
    pub fn with_checkpoints(mut self, checkpoints: Checkpoints) -> Tape<'a> {
        if self.mode == Mode::Record {
            self.mode = Mode::Checkpoint { branches: checkpoints.branches };
        }
        if let Some(start) = checkpoints.idle_from.filter(|start| *start < self.flat.gradients.len()) {
            self.lot = Some(Lot { top: start, end: start });
        }
        self
    }

    /// Runs a branch and records no more of it than its input.
    pub(super) fn forget(&mut self, branch: Branch, x: Var, body: Body<'_, Self>) -> Var {
        let id = x.id;
        if let Some(lot) = &mut self.lot {
            lot.end = branch.first_weight;
        }
        let parked = self.park(&x.value, 0);
        let input = parked.map_or_else(|| Input::Kept(x.value.clone()), Input::Parked);
        let first = self.memory.remembered.len();
        self.recording = false;
        self.way = Way::Forget { reserve: x.value.shape().len() };
        let y = body(self, branch.number, &x);
        self.way = Way::Plain;
        let y = self.finish_branch(branch, y);
        let out = self.add(x, y);
        self.recording = true;
        let remembered = first..self.memory.remembered.len();
        self.memory.nodes.push(Node::Branch(Forgotten { branch, x: id, out: out.id, input, remembered }));
        out
    }

    /// Records a forgotten branch again, its last node on top of the tape.
    pub(super) fn replay(&mut self, replay: Body<'_, Self>, forgotten: Forgotten) {
        let Forgotten { branch, x, out, input, remembered } = forgotten;
        let Some(dy) = self.take(out) else { return };
        let value = match input {
            Input::Kept(value) => value,
            Input::Parked(parked) => self.unpark(&parked),
        };
        let input = self.var(value);
        self.memory.nodes.push(Node::Link { from: input.id, to: x });
        self.phase = Phase::Again;
        self.way = Way::Again { remembered };
        let y = replay(self, branch.number, &input);
        self.way = Way::Plain;
        match branch {
            Branch { projection: Some((w, bias)), norm: None, .. } => {
                let out = self.memory.gradients.len();
                self.memory.gradients.push(Some(dy.clone()));
                let inner = self.low_rank_inner(&y.value, w);
                let value = Saved::Kept(y.value);
                self.memory.nodes.push(Node::Linear { x: y.id, out, value, w, bias, inner });
            }
            // A norm's gradient needs what it read.
            _ => {
                let y = self.finish_branch(branch, y);
                self.memory.gradients[y.id] = Some(dy.clone());
            }
        }
        self.phase = Phase::Forward;
        // The residual stream's own gradient; the branch adds to it.
        self.memory.gradients[input.id] = Some(dy);
    }

    /// Parks what an operation of a branch that will be forgotten has computed, if there is room.
    pub(super) fn remember(&mut self, value: &Tensor) {
        if let Way::Forget { reserve } = self.way {
            let parked = self.park(value, reserve);
            self.memory.remembered.push(parked);
        }
    }

    /// What the next operation of a branch that is run again had computed, if it was remembered.
    pub(super) fn recall(&mut self) -> Option<Tensor> {
        let Way::Again { remembered } = &mut self.way else { return None };
        let parked = self.memory.remembered[remembered.next()?].take()?;
        Some(self.unpark(&parked))
    }

    /// Copies a value into idle gradients if there is room for it and for `reserve` floats more.
    fn park(&mut self, value: &Tensor, reserve: usize) -> Option<Parked> {
        let lot = self.lot.as_mut()?;
        let range = lot.top..lot.top + value.shape().len();
        if range.end + reserve > lot.end {
            return None;
        }
        lot.top = range.end;
        kernels::copy(self.device.exec(), value.data(), &mut self.flat.gradients[range.clone()]);
        Some(Parked { range, shape: value.shape() })
    }

    /// Takes a value out of the gradients, which are zero again afterwards.
    fn unpark(&mut self, parked: &Parked) -> Tensor {
        let exec = self.device.exec();
        let mut value = self.device.empty(parked.shape);
        let place = &mut self.flat.gradients[parked.range.clone()];
        kernels::copy(exec, place, value.data_mut());
        kernels::clear(exec, place);
        value
    }
}
