// SPDX-License-Identifier: GPL-2.0
//! What differs between the supported kernels, 7.2 and 7.3.

use kernel::{bindings, prelude::*};

/// The module, for what must not outlive it.
#[cfg(postbox_this_module_fn)]
pub(crate) const THIS_MODULE_PTR: *mut bindings::module =
    kernel::module::this_module::<crate::LocalModule>().as_ptr();

/// The module, for what must not outlive it.
#[cfg(not(postbox_this_module_fn))]
pub(crate) const THIS_MODULE_PTR: *mut bindings::module = crate::THIS_MODULE.as_ptr();

/// Error codes that 7.2 has no names for.
macro_rules! errors {
    ($($name:ident = $code:ident),* $(,)?) => {$(
        #[doc = concat!("`", stringify!($code), "`.")]
        #[cold]
        pub(crate) fn $name() -> Error {
            Error::from_errno(-(bindings::$code as i32))
        }
    )*};
}

errors! {
    eaddrinuse = EADDRINUSE,
    ealready = EALREADY,
    ebadfd = EBADFD,
    ecanceled = ECANCELED,
    edquot = EDQUOT,
    eiocbqueued = EIOCBQUEUED,
    eisconn = EISCONN,
    eloop = ELOOP,
    enametoolong = ENAMETOOLONG,
    enodata = ENODATA,
    enotconn = ENOTCONN,
    eopnotsupp = EOPNOTSUPP,
    eoverflow = EOVERFLOW,
    eownerdead = EOWNERDEAD,
    estale = ESTALE,
    etimedout = ETIMEDOUT,
    exdev = EXDEV,
}
