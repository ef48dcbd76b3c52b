//! Fine-tuning, preference and reinforcement stages: what they keep, compute and generate. It must not search splits.

use super::{PlanError, Request};
use crate::architecture::Architecture;
use crate::calibration::Calibration;
use crate::footprint::States;
use crate::serve;
use crate::step::Trained;

/// Which parameters are trained and how the others are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// All, in mixed precision.
    Full,
    /// All, with everything in 16 bits.
    Pure16,
    /// Adapters of this rank beside every matrix, weights in 16 bits (Hu et al. 2021, "LoRA").
    Lora(f64),
    /// Adapters beside weights of so many bits (Dettmers et al. 2023, "QLoRA").
    Qlora {
        /// The adapters' rank.
        rank: f64,
        /// Bits of a frozen weight.
        bits: f64,
    },
}

impl Method {
    /// How parameters are kept, and which are trained.
    pub fn states(self, model: &Architecture) -> (States, Trained) {
        match self {
            Method::Full => (States::Mixed, Trained::All),
            Method::Pure16 => (States::Pure16, Trained::All),
            Method::Lora(rank) => (States::Frozen(16.0), Trained::Adapters(adapters(model, rank))),
            // Each block of 64 weights has a scale of 8 bits, and 256 of these one of 32 (QLoRA, section 3).
            Method::Qlora { rank, bits } => (
                States::Frozen(bits + 8.0 / 64.0 + 32.0 / (64.0 * 256.0)),
                Trained::Adapters(adapters(model, rank)),
            ),
        }
    }
}

/// Parameters of adapters of `rank` beside every matrix of every layer.
fn adapters(model: &Architecture, rank: f64) -> f64 {
    let attention = model.attention_matrices();
    let dense = model.ffn_matrices(model.ffn);
    let ends =
        |matrices: &[(f64, f64)]| matrices.iter().map(|(inputs, outputs)| inputs + outputs).sum::<f64>();
    let ffn = match model.experts {
        Some(experts) => {
            let each = ends(&model.ffn_matrices(experts.ffn));
            let share = model.expert_layers() / model.layers;
            share * (experts.count + experts.shared) * each + (1.0 - share) * ends(&dense)
        }
        None => ends(&dense),
    };
    rank * model.layers * (ends(&attention) + ffn)
}

/// What the training is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Next-token prediction on documents.
    Pretrain,
    /// On conversations.
    FineTune,
    /// Direct preference optimisation: the reference's forward pass comes on top (Rafailov et al. 2023, "DPO").
    Preference,
    /// Reinforcement: answers are generated, scored by the reference and by the policy before the update, and trained on
    /// (Shao et al. 2024, "DeepSeekMath", GRPO). This share of the tokens is generated.
    Reinforce {
        /// Generated tokens over all.
        generated: f64,
    },
}

impl Stage {
    /// Operations of a token over those of plain training: forward is a third of it.
    pub fn passes(self) -> f64 {
        match self {
            Stage::Pretrain | Stage::FineTune => 1.0,
            Stage::Preference => 4.0 / 3.0,
            Stage::Reinforce { .. } => 5.0 / 3.0,
        }
    }
}

/// Seconds in which all chips generate what a reinforcement stage trains on; 0 in the others.
///
/// # Errors
/// When the model cannot be served on these chips.
pub fn rollout_seconds(
    request: &Request,
    model: &Architecture,
    chips: f64,
    tokens: f64,
    calibration: &Calibration,
    assume: &mut impl FnMut(String, &str),
) -> Result<f64, PlanError> {
    let Stage::Reinforce { generated } = request.stage else { return Ok(0.0) };
    let context = request.sequence.unwrap_or(4_096.0);
    let mut serving = serve::Request::new(model.clone(), request.chip.clone());
    serving.context = context;
    let plan = serve::plan(&serving, calibration)?;
    if plan.group > chips {
        return Err(PlanError::Request(format!(
            "rollouts need groups of {} chips to hold {}, and there are {chips}",
            plan.group, model.name
        )));
    }
    assume(
        format!(
            "rollouts of {} answers at once on each group of {} chips, {:.0} tokens/s a chip",
            plan.concurrency,
            plan.group,
            plan.tokens_per_second / plan.group
        ),
        "`taoye plan serve` for this model, chip and context; every answer as long as the sequence allows",
    );
    Ok(tokens * generated / (plan.tokens_per_second / plan.group * chips))
}
