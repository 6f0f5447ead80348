//! How values become bytes.

use std::borrow::Cow;
use std::error::Error;
#[cfg(any(feature = "zerocopy", feature = "postcard"))]
use std::fmt;

/// A way to make bytes of values of a type.
///
/// ```
/// use postbox::typed::{Decode, Encode};
/// use std::borrow::Cow;
/// use std::convert::Infallible;
/// use std::str::Utf8Error;
///
/// enum Text {}
///
/// impl Encode<str> for Text {
///     type Error = Infallible;
///
///     fn encode(value: &str) -> Result<Cow<'_, [u8]>, Infallible> {
///         Ok(value.as_bytes().into())
///     }
/// }
///
/// impl Decode<String> for Text {
///     type Error = Utf8Error;
///
///     fn decode(bytes: &[u8]) -> Result<String, Utf8Error> {
///         Ok(std::str::from_utf8(bytes)?.into())
///     }
/// }
/// ```
pub trait Encode<T: ?Sized> {
    /// Why it cannot.
    type Error: Error;

    /// The bytes of a value.
    ///
    /// # Errors
    /// The value cannot be encoded.
    fn encode(value: &T) -> Result<Cow<'_, [u8]>, Self::Error>;
}

/// A way to make values of a type of bytes, which come from another process.
pub trait Decode<T> {
    /// Why they are not a value.
    type Error: Error;

    /// The value that all of these bytes are.
    ///
    /// # Errors
    /// They are not one.
    fn decode(bytes: &[u8]) -> Result<T, Self::Error>;
}

/// The value's own bytes, as they are in memory: for the types of [zerocopy](https://docs.rs/zerocopy)
/// without padding or pointers. Both sides must be of one byte order and layout.
///
/// What is sent is not copied, but by the kernel. What is received must have just the size of the
/// type, and be one of its values: of a type with `FromBytes` every content is one, of one with
/// `TryFromBytes` it is looked at. To look at a message without a copy, also at slices, there is
/// [`Message::view`](crate::Message::view).
///
/// ```
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// use postbox::Mailbox;
/// use postbox::typed::{InPlace, TypedReceiver, TypedSender};
///
/// let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
/// let samples: TypedSender<[u32; 4], InPlace> = sender.typed();
/// samples.send(&[1, 2, 3, 4])?;
/// let receiver: TypedReceiver<[u32; 4], InPlace> = receiver.typed();
/// assert_eq!(receiver.recv()?.value, [1, 2, 3, 4]);
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "zerocopy")]
#[derive(Clone, Copy, Debug)]
pub enum InPlace {}

/// Why bytes are not a value in place.
#[cfg(feature = "zerocopy")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// They are too few or too many.
    Size {
        /// How many they are.
        len: usize,
    },
    /// They are not where such a value can be: a copy could be looked at.
    Alignment,
    /// The type has no such value.
    Validity,
}

#[cfg(feature = "zerocopy")]
mod in_place {
    use super::*;
    use crate::recv::Message;
    use std::convert::Infallible;
    use zerocopy::{ConvertError, Immutable, IntoBytes, KnownLayout, TryFromBytes};

    impl fmt::Display for Mismatch {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Mismatch::Size { len } => {
                    write!(f, "it has {len} bytes, which no value of the type has")
                }
                Mismatch::Alignment => f.write_str("it is not aligned as values of the type are"),
                Mismatch::Validity => f.write_str("its bytes are no value of the type"),
            }
        }
    }

    impl Error for Mismatch {}

    impl<T: IntoBytes + Immutable + ?Sized> Encode<T> for InPlace {
        type Error = Infallible;

        fn encode(value: &T) -> Result<Cow<'_, [u8]>, Infallible> {
            Ok(Cow::Borrowed(value.as_bytes()))
        }
    }

    impl<T: TryFromBytes> Decode<T> for InPlace {
        type Error = Mismatch;

        fn decode(bytes: &[u8]) -> Result<T, Mismatch> {
            T::try_read_from_bytes(bytes).map_err(|error| mismatch(&error, bytes))
        }
    }

    fn mismatch<A, S, V>(error: &ConvertError<A, S, V>, bytes: &[u8]) -> Mismatch {
        match error {
            ConvertError::Alignment(_) => Mismatch::Alignment,
            ConvertError::Size(_) => Mismatch::Size { len: bytes.len() },
            ConvertError::Validity(_) => Mismatch::Validity,
        }
    }

    #[repr(align(4096))]
    struct Aligned([u8; 0]);

    static NOTHING: Aligned = Aligned([]);

    impl Message {
        /// The payload as a value that is there, without a copy: also a slice, or a type that ends
        /// with one.
        ///
        /// ```
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
        /// use postbox::typed::{InPlace, TypedSender};
        ///
        /// let (sender, receiver) = postbox::Mailbox::options().anonymous()?.split()?;
        /// let samples: TypedSender<[u32], InPlace> = sender.typed();
        /// samples.send(vec![1, 2, 3])?;
        /// let message = receiver.recv()?;
        /// let samples: &[u32] = message.view()?;
        /// assert_eq!(samples, [1, 2, 3]);
        /// # Ok(())
        /// # }
        /// ```
        ///
        /// # Errors
        /// Its size is not that of such a value, it is not aligned as one, or no such value.
        pub fn view<T>(&self) -> Result<&T, Mismatch>
        where
            T: TryFromBytes + KnownLayout + Immutable + ?Sized,
        {
            let payload = match self.payload.as_slice() {
                // No bytes are nowhere in particular.
                [] => &NOTHING.0,
                payload => payload,
            };
            T::try_ref_from_bytes(payload).map_err(|error| mismatch(&error, payload))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn values_come_back_and_nothing_else_does() {
            let value = [0x0102_0304_u32, 5];
            let bytes = InPlace::encode(&value).unwrap().into_owned();
            assert_eq!(InPlace::decode(&bytes), Ok(value));
            let decoded: Result<[u32; 2], _> = InPlace::decode(&bytes[1..]);
            assert_eq!(decoded, Err(Mismatch::Size { len: 7 }));
            // A receive may begin anywhere in memory.
            let mut shifted = vec![0];
            shifted.extend(&bytes);
            assert_eq!(InPlace::decode(&shifted[1..]), Ok(value));
            let decoded: Result<bool, _> = InPlace::decode(&[1]);
            assert_eq!(decoded, Ok(true));
            let decoded: Result<bool, _> = InPlace::decode(&[2]);
            assert_eq!(decoded, Err(Mismatch::Validity));
            let decoded: Result<(), _> = InPlace::decode(&[]);
            assert_eq!(decoded, Ok(()));
        }
    }
}

/// Whatever serde can serialize, in the format of [postcard](https://docs.rs/postcard): compact, and
/// the same on all machines. It does not describe itself: both sides must have the same type.
#[cfg(feature = "postcard")]
#[derive(Clone, Copy, Debug)]
pub enum Postcard {}

/// Why a value cannot be encoded, or bytes are not one.
#[cfg(feature = "postcard")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostcardError {
    /// What postcard says.
    Postcard(postcard::Error),
    /// There are more bytes than the value has.
    Trailing {
        /// How many are left.
        bytes: usize,
    },
}

#[cfg(feature = "postcard")]
mod encoded {
    use super::*;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    impl fmt::Display for PostcardError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                PostcardError::Postcard(error) => error.fmt(f),
                PostcardError::Trailing { bytes } => {
                    write!(f, "{bytes} bytes are left behind the value")
                }
            }
        }
    }

    impl Error for PostcardError {}

    impl<T: Serialize + ?Sized> Encode<T> for Postcard {
        type Error = PostcardError;

        fn encode(value: &T) -> Result<Cow<'_, [u8]>, PostcardError> {
            let bytes = postcard::to_allocvec(value).map_err(PostcardError::Postcard)?;
            Ok(Cow::Owned(bytes))
        }
    }

    impl<T: DeserializeOwned> Decode<T> for Postcard {
        type Error = PostcardError;

        fn decode(bytes: &[u8]) -> Result<T, PostcardError> {
            match postcard::take_from_bytes(bytes).map_err(PostcardError::Postcard)? {
                (value, []) => Ok(value),
                (_, rest) => Err(PostcardError::Trailing { bytes: rest.len() }),
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn values_come_back_and_nothing_else_does() {
            let value = (String::from("build"), vec![1_u64, 2, 300]);
            let bytes = Postcard::encode(&value).unwrap().into_owned();
            assert_eq!(Postcard::decode(&bytes), Ok(value));
            type Value = (String, Vec<u64>);
            for len in 0..bytes.len() {
                let cut: Result<Value, _> = Postcard::decode(&bytes[..len]);
                assert!(cut.is_err(), "{len} of {} bytes", bytes.len());
            }
            let mut longer = bytes;
            longer.extend([7, 7]);
            let longer: Result<Value, _> = Postcard::decode(&longer);
            assert_eq!(longer, Err(PostcardError::Trailing { bytes: 2 }));
            // A length that nobody has memory for.
            let huge: Result<Vec<u64>, _> = Postcard::decode(&[0xff, 0xff, 0xff, 0xff, 0x7f]);
            assert!(huge.is_err());
        }

        #[test]
        fn what_cannot_be_encoded_is_an_error() {
            struct Never;
            impl Serialize for Never {
                fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                    Err(serde::ser::Error::custom("never"))
                }
            }
            assert!(Postcard::encode(&Never).is_err());
        }
    }
}
