"""The reference application's store: users, followers, tweets, feeds and notifications."""
