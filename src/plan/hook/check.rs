//! What WGSL of the caller's is refused, and why. A parser, without a device: all of wgpu that this
//! floor knows.

use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{
    Block, Expression, Function, Module, Scalar, Statement, TypeInner, front::wgsl::parse_str,
};

use super::Form;

pub(super) fn check(form: &Form, wgsl: &str) -> Result<(), String> {
    let module = parse_str(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
    Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .map_err(|e| e.emit_to_string(wgsl))?;
    no_globals(&module)?;
    names(form, &module)?;
    let functions = || module.functions.iter().map(|(_, function)| function);
    let hook = functions()
        .find(|function| function.name.as_deref() == Some(form.name))
        .ok_or_else(|| format!("it does not define fn {}", form.name))?;
    signature(form, &module, hook)?;
    functions().try_for_each(|function| statements(function, &function.body))
}

fn no_globals(module: &Module) -> Result<(), String> {
    if let Some((_, variable)) = module.global_variables.iter().next() {
        let name = variable.name.as_deref().unwrap_or_default();
        return Err(format!("var {name} outside of a function: it may neither load nor store"));
    }
    if !module.overrides.is_empty() {
        return Err("it declares an override".to_owned());
    }
    match module.entry_points.first() {
        Some(entry) => Err(format!("{} is an entry point", entry.name)),
        None => Ok(()),
    }
}

fn names(form: &Form, module: &Module) -> Result<(), String> {
    let functions = module.functions.iter().map(|(_, function)| &function.name);
    let constants = module.constants.iter().map(|(_, constant)| &constant.name);
    let types = module.types.iter().map(|(_, ty)| &ty.name);
    let own = format!("{}_", form.name);
    let strange = functions
        .chain(constants)
        .chain(types)
        .flatten()
        .find(|name| *name != form.name && !name.starts_with(&own));
    match strange {
        Some(name) => Err(format!("the name {name} does not begin with {own}")),
        None => Ok(()),
    }
}

fn signature(form: &Form, module: &Module, function: &Function) -> Result<(), String> {
    let is = |ty, name: &str| {
        let scalar = match name {
            "f32" => Scalar::F32,
            "u32" => Scalar::U32,
            "i32" => Scalar::I32,
            _ => Scalar::BOOL,
        };
        module.types[ty].inner == TypeInner::Scalar(scalar)
    };
    let arguments = function.arguments.len() == form.arguments.len()
        && function.arguments.iter().zip(form.arguments).all(|(given, name)| is(given.ty, name));
    let result = function.result.as_ref().is_some_and(|result| is(result.ty, form.result));
    if arguments && result {
        return Ok(());
    }
    let (name, wanted) = (form.name, form.arguments.join(", "));
    Err(format!("the signature is not fn {name}({wanted}) -> {}", form.result))
}

fn statements(function: &Function, block: &Block) -> Result<(), String> {
    block.iter().try_for_each(|statement| {
        let reason = match statement {
            Statement::Emit(_)
            | Statement::Return { .. }
            | Statement::Call { .. }
            | Statement::Break => return Ok(()),
            Statement::Block(block) => return statements(function, block),
            Statement::If { accept, reject, .. } => {
                statements(function, accept)?;
                return statements(function, reject);
            }
            Statement::Switch { cases, .. } => {
                return cases.iter().try_for_each(|case| statements(function, &case.body));
            }
            // A variable of the function's own is no memory that anyone shares.
            Statement::Store { pointer, .. } if local(function, *pointer) => return Ok(()),
            Statement::Store { .. }
            | Statement::ImageStore { .. }
            | Statement::Atomic { .. }
            | Statement::ImageAtomic { .. } => "a store",
            Statement::Loop { .. } | Statement::Continue => "a loop",
            Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) => "a barrier",
            _ => "a statement that waits for other invocations or needs a device feature",
        };
        let name = function.name.as_deref().unwrap_or_default();
        Err(format!("{name} has {reason}, which a hook must not"))
    })
}

fn local(function: &Function, mut pointer: wgpu::naga::Handle<wgpu::naga::Expression>) -> bool {
    loop {
        match function.expressions[pointer] {
            Expression::LocalVariable(_) => return true,
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => {
                pointer = base;
            }
            _ => return false,
        }
    }
}
