//! AdamW over all parameters as one vector, with the gradient clipped by its norm. Burn's optimizer
//! clips each tensor by itself and keeps its state under numbers that differ from run to run.

use burn::module::{Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};

use crate::Result;
use crate::model::{Entry, Lm};

/// What does not change from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    /// The largest norm of a gradient.
    pub clip: Option<f64>,
}

/// Both moments of the gradient, one number a parameter.
pub struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
    steps: i32,
}

impl Moments {
    pub fn read(values: [Vec<f32>; 2], steps: usize, model: &mut Lm) -> Result<Self> {
        let device = model.device().inner();
        let [first, second] = values.map(|moment| {
            let count = moment.len();
            Tensor::from_data(TensorData::new(moment, [count]), &device)
        });
        Ok(Self { first, second, steps: i32::try_from(steps)? })
    }

    pub fn values(&self) -> Result<[Vec<f32>; 2]> {
        Ok([values(self.first.clone())?, values(self.second.clone())?])
    }
}

/// The numbers of a tensor.
pub fn values<const D: usize>(t: Tensor<D>) -> Result<Vec<f32>> {
    Ok(t.into_data().try_to_vec().map_err(|error| format!("{error:?}"))?)
}

impl AdamW {
    /// One step; the norm of the gradient before it was clipped.
    ///
    /// # Errors
    /// Where a parameter has no gradient.
    pub fn step(
        &self,
        lr: f64,
        model: &mut Lm,
        gradients: &GradientsParams,
        moments: &mut Option<Moments>,
    ) -> Result<Tensor<1>> {
        let gradient = flat_gradient(model, gradients)?;
        let norm = gradient.clone().square().sum().sqrt();
        let gradient = match self.clip {
            Some(most) => gradient * norm.clone().recip().mul_scalar(most).clamp_max(1.0),
            None => gradient,
        };
        let [b1, b2] = self.betas;
        let (first, second, steps) = match moments.take() {
            Some(Moments { first, second, steps }) => (
                first.mul_scalar(b1) + gradient.clone().mul_scalar(1.0 - b1),
                second.mul_scalar(b2) + gradient.square().mul_scalar(1.0 - b2),
                steps + 1,
            ),
            None => {
                (gradient.clone().mul_scalar(1.0 - b1), gradient.square().mul_scalar(1.0 - b2), 1)
            }
        };
        let unbias = |beta: f64| 1.0 - beta.powi(steps);
        let size = second.clone().div_scalar(unbias(b2)).sqrt().add_scalar(self.eps);
        let change = (first.clone() / size).mul_scalar(lr / unbias(b1));
        let weights = flat_weights(model).mul_scalar(1.0 - lr * self.weight_decay) - change;
        *moments = Some(Moments { first, second, steps });
        put(model, weights);
        Ok(norm)
    }
}

fn flat_gradient(model: &mut Lm, gradients: &GradientsParams) -> Result<Tensor<1>> {
    fn of<const D: usize>(gradients: &GradientsParams, id: ParamId) -> Option<Tensor<1>> {
        let gradient = gradients.get::<D>(id)?;
        let count = gradient.dims().iter().product::<usize>();
        Some(gradient.reshape([count]))
    }
    let mut all = Vec::new();
    for (name, entry) in model.entries() {
        let id = entry.id();
        let gradient = match entry {
            Entry::Vector(_) => of::<1>(gradients, id),
            Entry::Matrix(_) | Entry::Linear(_) => of::<2>(gradients, id),
        };
        all.push(gradient.ok_or_else(|| format!("{name} has no gradient"))?);
    }
    Ok(Tensor::cat(all, 0))
}

fn flat_weights(model: &mut Lm) -> Tensor<1> {
    let flat = |(_, entry): (String, Entry<'_>)| match entry {
        Entry::Vector(param) => param.val().inner(),
        Entry::Matrix(param) | Entry::Linear(param) => {
            let [rows, columns] = param.dims();
            param.val().inner().reshape([rows * columns])
        }
    };
    Tensor::cat(model.entries().into_iter().map(flat).collect(), 0)
}

/// Each parameter its part.
fn put(model: &mut Lm, weights: Tensor<1>) {
    let mut start = 0;
    let mut next = |count: usize| {
        start += count;
        weights.clone().narrow(0, start - count, count)
    };
    for (_, entry) in model.entries() {
        match entry {
            Entry::Vector(param) => {
                let part = Tensor::from_inner(next(param.dims()[0]));
                *param = Param::initialized(param.id, part.require_grad());
            }
            Entry::Matrix(param) | Entry::Linear(param) => {
                let [rows, columns] = param.dims();
                let part = Tensor::from_inner(next(rows * columns).reshape([rows, columns]));
                *param = Param::initialized(param.id, part.require_grad());
            }
        }
    }
}
