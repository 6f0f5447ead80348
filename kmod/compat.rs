// SPDX-License-Identifier: GPL-2.0
//! What differs between the supported kernels, 7.2 and 7.3.

use kernel::bindings;

/// The module, for what must not outlive it.
#[cfg(postbox_this_module_fn)]
pub(crate) const THIS_MODULE_PTR: *mut bindings::module =
    kernel::module::this_module::<crate::LocalModule>().as_ptr();

/// The module, for what must not outlive it.
#[cfg(not(postbox_this_module_fn))]
pub(crate) const THIS_MODULE_PTR: *mut bindings::module = crate::THIS_MODULE.as_ptr();
