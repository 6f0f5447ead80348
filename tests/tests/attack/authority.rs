//! Authority: nobody speaks, pays or receives with the rights of another user.
